// Whether all parts of the service work.

import { html, Loading, Problem, State, Table, useReady } from "../../ui.js";
import { useDocument } from "../../api.js";

const TONE = { ok: "ready", warning: "warning", error: "failed" };
const PARTS = { migrations: "schema of the database", ingest: "reading of recordings", array_storage: "storage of arrays", originals: "storage of uploads" };
const CHECKS = [
  { key: "name", label: "Part", value: (check) => PARTS[check.name] ?? check.name, show: (check) => PARTS[check.name] ?? check.name },
  { key: "status", label: "State", show: (check) => html`<${State} value=${TONE[check.status] ?? check.status} />` },
  { key: "message", label: "Found", show: (check) => html`${check.message}${check.hint && html`<div class="muted small">${check.hint}</div>`}` },
];

export function Service() {
  const checks = useDocument("/v1/checks");
  useReady(checks.data || checks.error);
  return html`<div class="row"><h2>Parts of the service</h2><button type="button" class="end" onClick=${checks.reload}>Check again</button></div>
    <${Problem} error=${checks.error} retry=${checks.reload} />
    ${!checks.data && !checks.error && html`<${Loading} what="checks; this takes some seconds" />`}
    ${checks.data && html`<${Table} caption="Checks" columns=${CHECKS} rows=${checks.data.checks} rowKey=${(check) => check.name} />`}`;
}
