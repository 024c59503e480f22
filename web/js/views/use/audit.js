// Who made, changed, cancelled or deleted what. Only admins see it.

import { html, useState, Link, Loading, Problem, Table, useReady } from "../../ui.js";
import { request, useLoaded } from "../../api.js";
import { setQuery } from "../../router.js";
import { time } from "../../format.js";
import { actionWords, detailWords, KINDS } from "./words.js";

const VIEWS = { dataset: "datasets", job: "jobs", model: "models", inference: "inferences" };
const nameOfObject = (item) => item.object_name || item.details?.name || item.object_id;
const COLUMNS = [
  { key: "at", label: "When", show: (item) => html`<span class="nowrap">${time(item.at)}</span>` },
  { key: "by", label: "Who", value: (item) => item.by?.name ?? "", show: (item) => item.by?.name ?? html`<span class="nowrap">no key</span>` },
  { key: "action", label: "Did", value: (item) => actionWords(item.action), show: (item) => html`<span class="nowrap">${actionWords(item.action)}</span>` },
  { key: "kind", label: "What", value: (item) => KINDS[item.kind] ?? item.kind, show: (item) => html`<span class="nowrap">${KINDS[item.kind] ?? item.kind}</span>` },
  { key: "object_id", label: "Which", value: nameOfObject, show: (item) => {
    const name = item.object_name || item.details?.name;
    const label = name ? html`<span title=${item.object_id}>${name}</span>` : html`<code>${item.object_id}</code>`;
    return VIEWS[item.kind] && !/\.deleted$/.test(item.action) ? html`<${Link} to=${`/${VIEWS[item.kind]}/${item.object_id}`}>${label}<//>` : label;
  } },
  { key: "details", label: "Details", unsorted: true, show: (item) => html`<span class="small muted">${detailWords(item.details)}</span>` },
];

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
  return html`<search class="row"><label>What <select value=${kind} onChange=${(event) => setQuery({ kind: event.target.value })}><option value="">all</option>${Object.entries(KINDS).map(([name, words]) => html`<option value=${name}>${words}</option>`)}</select></label>
      <label>Who <input type="search" value=${by} placeholder="name or id of a key" onChange=${(event) => setQuery({ by: event.target.value })} /></label></search>
    <${Problem} error=${list.error} retry=${list.reload} />
    ${list.data?.items.length === 0 && html`<p class="muted">No change is recorded.</p>`}
    ${list.data?.items.length > 0 && html`<${Table} caption="Changes" columns=${COLUMNS} rows=${list.data.items} />`}
    ${list.data?.more && html`<p><button type="button" onClick=${() => setPages(pages + 1)}>Show more</button></p>`}
    ${!list.data && !list.error && html`<${Loading} what="changes" />`}`;
}
