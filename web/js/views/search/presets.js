// The presets as cards, with the time that each would take on the workers that are alive.

import { html } from "../../ui.js";
import { useLoaded } from "../../api.js";
import { duration, plural } from "../../format.js";
import { nameOfPreset } from "../job/words.js";
import { preview } from "./form.js";

const PRESETS = [
  ["quick", "A first result in minutes: do the latents make sense, and is the recording good enough? A few small models with random hyperparameters."],
  ["autolfads", "For the result that you use: a population of models that copy the best ones and adapt their hyperparameters while they train (Keshtkaran et al. 2022)."],
  ["paper-2019", "For a question about hyperparameters: many independent models with coordinated dropout and sample validation (Keshtkaran & Pandarinath 2019)."],
];

/** Load the preview of each preset for a data set: { quick: preview, … }. */
function usePresetTimes(datasetId) {
  return useLoaded(async (signal) => {
    const found = await Promise.all(PRESETS.map(([preset]) => preview({ dataset_id: datasetId, preset }, signal).catch(() => null)));
    return Object.fromEntries(PRESETS.map(([preset], index) => [preset, found[index]]));
  }, [datasetId]).data;
}

export function PresetCards({ datasetId, preset, current, onChange }) {
  const times = usePresetTimes(datasetId);
  return html`<fieldset class="presets"><legend class="hidden">Preset</legend>
    ${PRESETS.map(([key, use]) => {
    const isChosen = key === preset;
    const found = isChosen && current ? current : times?.[key];
    return html`<label class=${`card preset${isChosen ? " chosen" : ""}`}><span class="row"><input type="radio" name="preset" checked=${isChosen} onChange=${() => onChange(key)} /> <strong>${nameOfPreset(key)}</strong>
        <span class="end">${found ? html`about <b>${duration(found.seconds)}</b>` : html`<span class="muted">…</span>`}</span></span>
      <span class="small">${use}</span><span class="small muted">${found ? `${plural(found.models, "model")}, at most ${found.epochs.toLocaleString("en")} epochs in all` : ""}</span></label>`;
  })}
    <label class="small preset-none"><input type="radio" name="preset" checked=${!preset} onChange=${() => onChange(null)} /> No preset: random search with the general defaults, without a controller</label>
  </fieldset>`;
}
