// Keys: make, list and revoke them.

import { html, useState, Action, Copy, Dialog, Field, Loading, Problem, State, Table, useReady } from "../../ui.js";
import { ifMay, readAll, request, useLoaded } from "../../api.js";
import { ago, time } from "../../format.js";

const stateOf = (key) => {
  if (key.revoked_at) return "revoked";
  return key.expires_at && new Date(key.expires_at) < new Date() ? "expired" : "active";
};

function columns(reload) {
  return [
    { key: "name", label: "Name" },
    { key: "beginning", label: "Begins with", show: (key) => html`<code>${key.beginning}…</code>` },
    { key: "scopes", label: "May", value: (key) => key.scopes.join(), show: (key) => key.scopes.join(", ") },
    { key: "state", label: "State", value: stateOf, show: (key) => html`<${State} value=${stateOf(key)} />` },
    { key: "last_used_at", label: "Last used", show: (key) => (key.last_used_at ? ago(key.last_used_at) : "never") },
    { key: "expires_at", label: "Expires", show: (key) => (key.expires_at ? time(key.expires_at) : "never") },
    { key: "revoke", label: "Revoke", unsorted: true, show: (key) => stateOf(key) === "active" && html`<${Action} aria-label=${`Revoke ${key.name}`}
      run=${async () => { if (confirm(`Revoke the key “${key.name}”? Programs that use it stop working within seconds.`)) { await request(`/v1/keys/${key.id}`, { method: "DELETE" }); reload(); } }}>Revoke<//>` },
  ];
}

function NewKey({ onClose }) {
  const [form, setForm] = useState({ name: "", scope: "write", days: "" });
  const [made, setMade] = useState(null);
  const [error, setError] = useState(null);
  const set = (name) => (event) => setForm({ ...form, [name]: event.target.value });
  const submit = async (event) => {
    event.preventDefault();
    const scopes = { read: ["read"], write: ["read", "write"], admin: ["read", "write", "admin"] }[form.scope];
    const expires = form.days ? new Date(Date.now() + form.days * 86400000).toISOString() : null;
    try { setMade(await request("/v1/keys", { method: "POST", json: { name: form.name, scopes, expires_at: expires } })); } catch (caught) { setError(caught); }
  };
  return html`<${Dialog} title="New key" onClose=${onClose}>
    ${made ? html`<p>Copy the key now. The service keeps only a digest of it and cannot show it again.</p><pre tabindex="0">${made.secret}</pre><${Copy} text=${made.secret} label="Copy the key" />`
    : html`<form onSubmit=${submit}><${Problem} error=${error} />
      <${Field} label="Name" help="The person or the program that uses the key. It stands beside all that the key makes.">${(attributes) => html`<input required value=${form.name} onInput=${set("name")} ...${attributes} />`}<//>
      <${Field} label="May" help="Read: look and download. Write: also data sets, jobs and models. Admin: also keys and the log of changes.">
        ${(attributes) => html`<select value=${form.scope} onChange=${set("scope")} ...${attributes}><option value="read">read</option><option value="write">read and write</option><option value="admin">read, write and administer</option></select>`}<//>
      <${Field} label="Expires after" unit="days" help="Empty: never.">${(attributes) => html`<input type="number" min="1" value=${form.days} onInput=${set("days")} ...${attributes} />`}<//>
      <p class="buttons"><button class="primary">Make the key</button></p></form>`}
  <//>`;
}

export function Keys() {
  const keys = useLoaded((signal) => readAll("/v1/keys", { signal }), []);
  const [isNew, setNew] = useState(false);
  useReady(keys.data || keys.error);
  const close = () => { setNew(false); keys.reload(); };
  return html`<div class="row"><p>A key is a person or a program. Each change is recorded with the name of the key that made it.</p>
      <button type="button" class="primary end" onClick=${() => setNew(true)} ...${ifMay("admin")}>New key</button></div>
    <${Problem} error=${keys.error} retry=${keys.reload} />
    ${keys.data?.items.length === 0 && html`<p class="muted">There is no key yet: everyone who can reach this service can use it. A first key with “administer” changes that.</p>`}
    ${keys.data?.items.length > 0 && html`<${Table} caption="Keys" columns=${columns(keys.reload)} rows=${keys.data.items} />`}
    ${!keys.data && !keys.error && html`<${Loading} what="keys" />`}
    ${isNew && html`<${NewKey} onClose=${close} />`}`;
}
