// What the search would do and need, the same search in a program, and the button that starts it.

import { html, useMemo, Action, Problem } from "../../ui.js";
import { getKey, ifMay, request, urlOf } from "../../api.js";
import { CodeLines } from "../../code.js";
import { bytes, duration, number, plural } from "../../format.js";
import { go } from "../../router.js";
import { withLabels } from "../job/words.js";
import { forgetEdits } from "./form.js";

function newKey() {
  return Array.from(crypto.getRandomValues(new Uint8Array(12)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** A JSON document as Python. */
function asPython(value) {
  if (value === null) return "None";
  if (typeof value === "boolean") return value ? "True" : "False";
  if (Array.isArray(value)) return `[${value.map(asPython).join(", ")}]`;
  if (typeof value === "object") return `{${Object.entries(value).map(([key, item]) => `${JSON.stringify(key)}: ${asPython(item)}`).join(", ")}}`;
  return JSON.stringify(value);
}

function codeOf(specification) {
  const { dataset_id: datasetId, ...fields } = specification;
  const [base] = urlOf("/v1/jobs").split("/v1/");
  const json = JSON.stringify(specification, null, 2).split("\n");
  const key = getKey() ? ' -H "Authorization: Bearer $LATENTRY_KEY"' : "";
  return {
    JSON: json,
    Python: ["from latentry import Client", "", `client = Client("${base}"${getKey() ? ', key=os.environ["LATENTRY_KEY"]' : ""})`, "job = client.submit(", `    "${datasetId}",`,
      ...Object.entries(fields).map(([name, value]) => `    ${name}=${asPython(value)},`), ")"],
    curl: [`curl --fail-with-body${key} --json @- '${urlOf("/v1/jobs")}' <<'END'`, ...json, "END"],
  };
}

export function Summary({ specification, state, messages }) {
  const { preview, error, isChecking } = state;
  const key = useMemo(newKey, [JSON.stringify(specification)]);
  const code = useMemo(() => codeOf(specification), [JSON.stringify(specification)]);
  const start = async () => {
    const job = await request("/v1/jobs", { method: "POST", json: specification, headers: { "Idempotency-Key": key } });
    forgetEdits(specification.dataset_id);
    go(`/jobs/${job.id}`);
  };
  const refusal = preview && !error ? preview.refused_by : [];
  return html`<div class="card summary"><h2>Before it starts</h2>
    <${Problem} error=${error} nameOf=${withLabels} />
    ${preview && html`<div class=${error || isChecking ? "stale" : ""} aria-live="polite" aria-busy=${isChecking}>
      <div class="numbers"><div>Expected time<b>${duration(preview.seconds)}</b></div><div>Models<b>${preview.models}</b></div></div>
      <p class="small muted">${preview.seconds_basis === "measured" ? "From the pace of recent trainings here" : "From a short measurement of each worker"}, with ${plural(preview.workers, "worker")}; other jobs in the queue are not included.</p>
      <dl class="facts">
        <dt>device time</dt><dd>${duration(preview.device_seconds)}</dd>
        <dt>epochs in all</dt><dd>at most ${preview.epochs.toLocaleString("en")}, of ${plural(preview.steps_per_epoch, "step")} each</dd>
        <dt>trials</dt><dd>${preview.training_trials} train, ${preview.validation_trials} validate, ${preview.test_trials} test</dd>
        <dt>memory</dt><dd>${bytes(preview.step_memory_bytes)} for a step of one model</dd>
        <dt>stored</dt><dd>${bytes(preview.kept_bytes)} of weights and curves, ${bytes(preview.latents_bytes)} of latents</dd>
        ${preview.external_inputs > 0 && html`<dt>known inputs</dt><dd>${number(preview.external_inputs)} in each bin</dd>`}
      </dl></div>`}
    ${!error && messages.warnings.length > 0 && html`<div class="warning"><strong>${plural(messages.warnings.length, "warning")}</strong><ul>${messages.warnings.map((text) => html`<li>${text}</li>`)}</ul></div>`}
    ${refusal.length > 0 && html`<div class="problem" role="alert"><strong>A quota refuses this search now.</strong><ul>${refusal.map((text) => html`<li>${text}</li>`)}</ul></div>`}
    ${preview?.waits_for && html`<p class="warning">It would not begin at once. ${preview.waits_for}</p>`}
    <p class="buttons"><${Action} class="primary" run=${start} disabled=${isChecking || Boolean(error) || refusal.length > 0} ...${ifMay()}>Start the search<//>
      ${isChecking && html`<span class="muted small" role="status">Checking…</span>`}</p>
    <details><summary>The same search in a program</summary><${CodeLines} code=${code} /></details>
  </div>`;
}
