// Which models leak, in words. The service judges when the job is done (domain/scores/leak_diagnostics.py); before, the curves tell.

import { html } from "../../ui.js";
import { number as digits, plural } from "../../format.js";
import { list } from "./words.js";

const LOST_SHARE = 0.5;
const RISE_SHARE = 0.05;

/** Return a Map from the numbers of leaking models to { kind, text }. kind: "kept", "later", or "suspected" while the job runs. */
export function leaksOf(job, models, curves) {
  const { diagnostics } = job;
  if (!diagnostics) return suspected(models, curves);
  const found = new Map();
  const { constant_sv_loss: constantSv, constant_validation_loss: constantValidation } = diagnostics;
  for (const one of diagnostics.models) {
    if (diagnostics.leaking?.includes(one.number)) {
      found.set(one.number, { kind: "kept", text: `On samples that it reads, its loss is ${digits(one.validation_loss)} nats per sample; on held-out samples it is ${digits(one.sv_loss)}. `
        + `Constant rates reach ${digits(constantValidation)} and ${digits(constantSv)}.` });
    } else if (diagnostics.leaking_later?.includes(one.number)) {
      found.set(one.number, { kind: "later", text: `From epoch ${one.best_epoch} to ${one.last_epoch} its validation loss went from ${digits(one.validation_loss)} to ${digits(one.last_validation_loss)}, `
        + `but its SV loss from ${digits(one.sv_loss)} to ${digits(one.last_sv_loss)} nats per sample.` });
    }
  }
  return found;
}

/** The rules of the service, with the losses of the first epoch in place of those of constant rates. */
function suspected(models, curves) {
  const found = new Map();
  for (const { number, scores } of models) {
    const curve = curves?.get(number);
    const { sv_loss: sv, validation_loss: validation, last_sv_loss: lastSv, last_validation_loss: lastValidation } = scores;
    if (!curve?.sv.length || ![sv, validation, lastSv, lastValidation].every(Number.isFinite)) continue;
    const gain = curve.validation[0] - lastValidation;
    const lost = gain - (curve.sv[0] - lastSv);
    const isParting = lastValidation < validation && lastSv - sv > RISE_SHARE * (curve.sv[0] - sv) && lastSv > sv;
    if (isParting || (gain > 0 && lost > LOST_SHARE * gain)) {
      found.set(number, { kind: "suspected", text: `Its validation loss is ${digits(lastValidation)} and its SV loss ${digits(lastSv)} nats per sample.` });
    }
  }
  return found;
}

const MOST_NAMED = 15;
const TITLES = {
  kept: (models, verb) => `${models} ${verb}.`,
  later: (models, verb) => `${models} ${verb} at the end of training, but not with the weights that are kept.`,
  suspected: (models) => `${models} may leak, as the losses are now. This can change with every epoch; the service decides when the job is done.`,
};

function titleOf(kind, numbers, count) {
  const models = numbers.length > MOST_NAMED ? `${numbers.length} of ${count} models` : `${numbers.length > 1 ? "Models" : "Model"} ${list(numbers)}`;
  return TITLES[kind](models, numbers.length > 1 ? "leak" : "leaks");
}

/** The explanation beside the curves. */
export function LeakNote({ leaks, count }) {
  if (!leaks.size) return null;
  const groups = ["kept", "later", "suspected"].map((kind) => [kind, [...leaks].filter(([, leak]) => leak.kind === kind)]).filter(([, found]) => found.length);
  return html`<div class="warning leak-note" role="note">
    ${groups.map(([kind, found]) => html`<p><strong>${titleOf(kind, found.map(([number]) => number), count)}</strong></p>`)}
    <p>A model leaks if it passes single spikes from its input to its output instead of inferring rates. Its validation loss falls, because this loss counts
      samples that the model reads. Its SV loss rises, because this loss counts samples that are hidden from the model. So the search selects by the SV loss.</p>
    <details><summary>${plural(leaks.size, "model")} in numbers</summary><ul>${[...leaks].map(([number, { text }]) => html`<li>Model ${number}: ${text}</li>`)}</ul></details>
  </div>`;
}
