// Tables of scores, hyperparameters and sizes, with what may be compared with what.

import { html, useMemo, useState } from "../../ui.js";
import { number } from "../../format.js";
import { shownNumber } from "../model/about.js";
import { capital, nameOfValue } from "../job/words.js";
import { nameOfPreset } from "../job/words.js";
import { orderedScores } from "../model/scores.js";

const BITS = "sv_bits_per_spike_valid";

/** Return models by the samples that scored them: [[model, …], …]. */
export function groupsOf(models) {
  const groups = new Map();
  for (const one of models) groups.set(one.model.scored_on, [...(groups.get(one.model.scored_on) ?? []), one]);
  return [...groups.values()];
}

/** Say which losses may be compared. */
export function Comparability({ models }) {
  const groups = groupsOf(models);
  if (groups.length === 1) return html`<p>All models were scored on the same held-out samples, so losses and bits per spike can be compared.</p>`;
  const datasets = new Set(models.map(({ owner }) => owner.dataPath));
  return html`<div class="warning"><strong>Not all losses can be compared.</strong> ${datasets.size > 1 ? "The models were trained on different data sets." : "The models were scored on different held-out samples, for example because of another split or another evaluation seed."}
    <p>Compare SV losses and bits per spike only within: ${groups.map((group) => group.map(({ letter }) => letter).join(", ")).join(" · ")}.</p></div>`;
}

function ModelTable({ caption, models, rows }) {
  return html`<div class="table" tabindex="0" role="region" aria-label=${caption}><table><caption class="hidden">${caption}</caption>
    <thead><tr><th scope="col">${""}<span class="hidden">Quantity</span></th>${models.map(({ letter, model }) => html`<th scope="col" class="number">${letter}: model ${model.number}</th>`)}</tr></thead>
    <tbody>${rows.map(({ label, help, cells, differs }) => html`<tr class=${differs && rows.some((row) => !row.differs) ? "selected" : ""}><th scope="row">${label}${differs && html` <span class="muted" title="The models differ">≠</span>`}${help && html`<br /><span class="muted small">${help}</span>`}</th>
      ${cells.map((cell) => html`<td class="number">${cell}</td>`)}</tr>`)}</tbody></table></div>`;
}

/** Return the least standard error that is known of a score, over trials; 0 where none is. The SV loss ranks models as their bits per spike do. */
function errorOf(group, name) {
  const errors = group.flatMap(({ owner, model }) => (model.is_selected && owner.job?.diagnostics?.baselines) || []).filter(({ score }) => score === name).map((item) => item.standard_error ?? 0);
  return Math.min(...errors.filter((error) => error > 0), Infinity);
}

/** Return the letter of the best of comparable models, or null where the next one is within the standard error. */
function bestOf(group, name, isHigh) {
  const valueOf = ({ model }) => model.scores[name];
  const [first, second] = group.filter((one) => Number.isFinite(valueOf(one))).sort((a, b) => (isHigh ? -1 : 1) * (valueOf(a) - valueOf(b)));
  if (!second) return null;
  if (name === "sv_loss" && !bestOf(group, BITS, true)) return null;
  const error = errorOf(group, name);
  return Number.isFinite(error) && Math.abs(valueOf(first) - valueOf(second)) <= error ? null : first.letter;
}

/** Scores; the best within a group of comparable models is marked. */
export function Scores({ models }) {
  const groups = groupsOf(models);
  const names = [...new Set(models.flatMap(({ model }) => Object.keys(model.scores)))];
  const best = (name, isHigh) => new Set(groups.map((group) => bestOf(group, name, isHigh)));
  const row = (name, label, help, isHigh, digits) => {
    const texts = new Set(models.map(({ model }) => number(model.scores[name], digits)));
    const winners = texts.size > 1 ? best(name, isHigh) : new Set(); // no winner by digits that are not shown
    return { label, help, cells: models.map(({ model, letter }) => { const text = number(model.scores[name], digits); return winners.has(letter) ? html`<b>${text}</b> <span class="muted">best</span>` : text; }) };
  };
  const rows = [
    ...orderedScores(names).filter(({ name }) => models.some(({ model }) => Number.isFinite(model.scores[name]))).map(({ name, label, unit, help }) => row(name, `${label} (${unit})`, help, true, 3)),
    row("sv_loss", "SV loss (nats per sample)", "Lower is better. Trust this loss.", false),
    row("validation_loss", "Validation loss (nats per sample)", "It misleads if a model leaks.", false),
  ];
  return html`<${ModelTable} caption="Scores" models=${models} rows=${rows} />
    <p class="muted">No score is “best” where the next one is within a known standard error over trials.</p>
    ${models.some(({ model }) => model.scores.psth_r2_valid === undefined) && html`<p class="muted">The selected model of a job has all scores, others have losses and bits per spike.</p>`}`;
}

function shown(value) {
  if (value === undefined || value === null) return "–";
  if (typeof value === "number") return shownNumber(value);
  if (typeof value === "boolean") return value ? "yes" : "no";
  return Array.isArray(value) ? value.join(", ") || "none" : String(value);
}

/** Hyperparameters, architecture and budgets; rows in which models differ come first and are marked. */
export function Differences({ models }) {
  const [isAll, setAll] = useState(false);
  const rows = useMemo(() => {
    const parts = [["hyperparameters", (one) => one.model.hyperparameters], ["architecture", (one) => one.model.architecture],
      ["job", ({ owner, model }) => ({ data_set: owner.dataset?.name, preset: nameOfPreset(owner.job?.specification?.preset), strategy: owner.job?.specification?.strategy?.kind, epochs_trained: model.epochs_trained, seed: model.seed })]];
    return parts.flatMap(([, of]) => {
      const keys = [...new Set(models.flatMap((one) => Object.keys(of(one) ?? {})))];
      return keys.map((key) => {
        const values = models.map((one) => of(one)?.[key]);
        return { label: capital(nameOfValue(key)), cells: values.map(shown), differs: new Set(values.map((value) => JSON.stringify(value ?? null))).size > 1 };
      });
    });
  }, [models]);
  const different = rows.filter(({ differs }) => differs);
  return html`<p class="row"><label><input type="checkbox" checked=${isAll} onChange=${(event) => setAll(event.target.checked)} /> Show also the ${rows.length - different.length} that are equal</label></p>
    ${different.length === 0 && !isAll ? html`<p>The models do not differ in hyperparameters or architecture.</p>` : html`<${ModelTable} caption="Hyperparameters and architecture" models=${models} rows=${isAll ? [...different, ...rows.filter(({ differs }) => !differs)] : different} />`}`;
}
