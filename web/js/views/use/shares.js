// Links that show one data set, job or model to whoever has them.

import { html, useState, Action, Copy, Dialog, Field, Link, Loading, Problem, State, Table, useReady } from "../../ui.js";
import { ifMay, readAll, request, useLoaded } from "../../api.js";
import { currentRoute, href } from "../../router.js";
import { ago, time } from "../../format.js";

const VIEWS = { dataset: "datasets", job: "jobs", model: "models" };
const KINDS = { dataset: "data set", job: "job", model: "model" };

const OF_THIS_COMPUTER = /^(localhost|127\..*|\[::1\])$/;

/** A button that makes a link to one object. The link opens on the present view: tab is its name. */
export function ShareButton({ kind, id, name, tab }) {
  const [isOpen, setOpen] = useState(false);
  return html`<button type="button" onClick=${() => setOpen(true)} ...${ifMay()}>Share…</button>${isOpen && html`<${NewShare} kind=${kind} id=${id} name=${name} tab=${tab} onClose=${() => setOpen(false)} />`}`;
}

function NewShare({ kind, id, name, tab, onClose }) {
  const [form, setForm] = useState({ label: "", days: 30 });
  const [link, setLink] = useState("");
  const { known, instead_of: instead, ...query } = currentRoute().query; // those two are news for whoever adds a recording
  const hasChoices = Object.keys(query).some((key) => key !== "tab");
  const [error, setError] = useState(null);
  const set = (field) => (event) => setForm({ ...form, [field]: event.target.value });
  const submit = async (event) => {
    event.preventDefault();
    const expires = new Date(Date.now() + form.days * 86400000).toISOString();
    try {
      const made = await request("/v1/shares", { method: "POST", json: { [`${kind}_id`]: id, label: form.label, expires_at: expires } });
      setLink(new URL(href(`/share/${made.token}`, query), document.baseURI).href);
    } catch (caught) { setError(caught); }
  };
  return html`<${Dialog} title=${`Share ${name}`} onClose=${onClose}>
    ${link ? html`<p>Whoever has this link can look at this ${KINDS[kind]} until the link ends. Copy it now; it is not shown again.</p>
        <pre tabindex="0">${link}</pre><p class="buttons"><${Copy} text=${link} label="Copy the link" /><${Link} to="/use" query=${{ tab: "shares" }}>All shared links<//></p>`
    : html`<p>The link needs no key. It shows this ${KINDS[kind]} and what its plots need, and nothing else; nothing can be changed with it. You can revoke it at any time.</p>
      <p>Opens on: <b>${tab}</b>${hasChoices && ", with the choices that you see now"}.</p>
      ${OF_THIS_COMPUTER.test(location.hostname) && html`<p class="warning">This address works only on this computer. For others, start the service with a public address.</p>`}
      <form onSubmit=${submit}><${Problem} error=${error} />
        <${Field} label="For whom or what" help="A note for you and your colleagues, in the list of shared links.">${(attributes) => html`<input value=${form.label} maxlength="200" onInput=${set("label")} ...${attributes} />`}<//>
        <${Field} label="Ends after" unit="days">${(attributes) => html`<input type="number" min="1" max="365" required value=${form.days} onInput=${set("days")} ...${attributes} />`}<//>
        <p class="buttons"><button class="primary">Make the link</button></p></form>`}<//>`;
}

function columns(reload) {
  return [
    { key: "target", label: "Shows", value: (share) => share.target_name ?? share.target_id, show: (share) => html`${share.kind !== "model" && KINDS[share.kind]} <${Link} to=${`/${VIEWS[share.kind]}/${share.target_id}`}>${share.target_name || share.target_id}<//>` },
    { key: "label", label: "For", show: (share) => share.label || "–" },
    { key: "state", label: "State", show: (share) => html`<${State} value=${share.state} />` },
    { key: "expires_at", label: "Ends", show: (share) => time(share.expires_at) },
    { key: "last_used_at", label: "Last used", show: (share) => (share.last_used_at ? ago(share.last_used_at) : "never") },
    { key: "by", label: "By", value: (share) => share.created_by?.name ?? "", show: (share) => share.created_by?.name ?? "–" },
    { key: "revoke", label: "Revoke", unsorted: true, show: (share) => share.state === "active" && html`<${Action} ...${ifMay()} class="danger"
      run=${async () => { await request(`/v1/shares/${share.id}`, { method: "DELETE" }); reload(); }}>Revoke<//>` },
  ];
}

export function Shares() {
  const shares = useLoaded((signal) => readAll("/v1/shares", { signal }), []);
  useReady(shares.data || shares.error);
  return html`<p>A shared link shows one data set, job or model to someone without a key. Make one with “Share…” on its page.</p>
    <${Problem} error=${shares.error} retry=${shares.reload} />
    ${shares.data?.items.length === 0 && html`<p class="muted">Nothing is shared yet. Open a data set, a job or a model from <${Link} to="/">Home<//> and press “Share…”.</p>`}
    ${shares.data?.items.length > 0 && html`<${Table} caption="Shared links" columns=${columns(shares.reload)} rows=${shares.data.items} />`}
    ${!shares.data && !shares.error && html`<${Loading} what="shared links" />`}`;
}
