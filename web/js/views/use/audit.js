// Who made, changed, cancelled or deleted what. Only admins see it.

import { html, useState, Link, Loading, Problem, Table, useReady } from "../../ui.js";
import { request, useLoaded } from "../../api.js";
import { setQuery } from "../../router.js";
import { time } from "../../format.js";

const VIEWS = { dataset: "datasets", job: "jobs", model: "models", inference: "inferences" };
const COLUMNS = [
  { key: "at", label: "When", show: (item) => time(item.at) },
  { key: "by", label: "Who", value: (item) => item.by?.name ?? "", show: (item) => item.by?.name ?? "no key" },
  { key: "action", label: "Did" },
  { key: "kind", label: "What" },
  { key: "object_id", label: "Which", show: (item) => (VIEWS[item.kind] && !/delete/.test(item.action)
    ? html`<${Link} to=${`/${VIEWS[item.kind]}/${item.object_id}`}><code>${item.object_id}</code><//>` : html`<code>${item.object_id}</code>`) },
  { key: "details", label: "Details", unsorted: true, show: (item) => html`<span class="small muted">${Object.entries(item.details ?? {}).map(([name, value]) => `${name}: ${typeof value === "object" ? JSON.stringify(value) : value}`).join(", ")}</span>` },
];
const KINDS = ["dataset", "job", "model", "inference", "key", "share", "webhook", "upload"];

export function Audit({ route }) {
  const { kind = "", by = "" } = route.query;
  const [pages, setPages] = useState(1);
  const list = useLoaded(async (signal) => {
    const items = [];
    let token = "";
    for (let page = 0; page < pages; page += 1) {
      const part = await request("/v1/audit", { query: { kind, by, page_size: 100, page_token: token }, signal });
      items.push(...part.items);
      token = part.next_page_token;
      if (!token) break;
    }
    return { items, more: Boolean(token) };
  }, [kind, by, pages]);
  useReady(list.data || list.error);
  return html`<search class="row"><label>What <select value=${kind} onChange=${(event) => setQuery({ kind: event.target.value })}><option value="">all</option>${KINDS.map((name) => html`<option>${name}</option>`)}</select></label>
      <label>Who <input type="search" value=${by} placeholder="name or id of a key" onChange=${(event) => setQuery({ by: event.target.value })} /></label></search>
    <${Problem} error=${list.error} retry=${list.reload} />
    ${list.data?.items.length === 0 && html`<p class="muted">No change is recorded.</p>`}
    ${list.data?.items.length > 0 && html`<${Table} caption="Changes" columns=${COLUMNS} rows=${list.data.items} />`}
    ${list.data?.more && html`<p><button type="button" onClick=${() => setPages(pages + 1)}>Show more</button></p>`}
    ${!list.data && !list.error && html`<${Loading} what="changes" />`}`;
}
