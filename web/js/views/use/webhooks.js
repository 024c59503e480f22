// Webhooks: addresses to which the service sends a message when a job ends.

import { html, useState, Action, Copy, Dialog, Field, Loading, Problem, State, Table, useReady } from "../../ui.js";
import { ifMay, readAll, request, useDocument, useLoaded } from "../../api.js";
import { ago } from "../../format.js";

const DELIVERIES = [
  { key: "created_at", label: "When", show: (item) => ago(item.created_at) },
  { key: "state", label: "State", show: (item) => html`<${State} value=${item.state} />` },
  { key: "attempts", label: "Attempts", numeric: true },
  { key: "status", label: "Answer", show: (item) => item.status ?? item.error ?? "–" },
];

function Deliveries({ webhook, onClose }) {
  const list = useDocument(`/v1/webhooks/${webhook.id}/deliveries`, { query: { page_size: 50 } });
  return html`<${Dialog} title=${`Messages to ${webhook.url}`} onClose=${onClose}><${Problem} error=${list.error} />
    ${list.data && (list.data.items.length > 0 ? html`<${Table} caption="Messages" columns=${DELIVERIES} rows=${list.data.items} />` : html`<p class="muted">No message yet.</p>`)}<//>`;
}

function NewWebhook({ onClose }) {
  const [url, setUrl] = useState("https://");
  const [made, setMade] = useState(null);
  const [error, setError] = useState(null);
  const submit = async (event) => {
    event.preventDefault();
    try { setMade(await request("/v1/webhooks", { method: "POST", json: { url } })); } catch (caught) { setError(caught); }
  };
  return html`<${Dialog} title="New webhook" onClose=${onClose}>
    ${made ? html`<p>Messages are signed with this secret. Copy it now; it is not shown again.</p><pre tabindex="0">${made.secret}</pre><${Copy} text=${made.secret} label="Copy the secret" />`
    : html`<form onSubmit=${submit}><${Problem} error=${error} /><${Field} label="Address" help="The service sends a POST to this address when a job ends.">
        ${(attributes) => html`<input type="url" required value=${url} onInput=${(event) => setUrl(event.target.value)} ...${attributes} />`}<//>
      <p class="buttons"><button class="primary">Make the webhook</button></p></form>`}<//>`;
}

export function Webhooks() {
  const list = useLoaded((signal) => readAll("/v1/webhooks", { signal }), []);
  const [shown, setShown] = useState(null);
  useReady(list.data || list.error);
  const columns = [
    { key: "url", label: "Address" },
    { key: "states", label: "Told when a job is", value: (hook) => hook.states.join(), show: (hook) => hook.states.join(", ") },
    { key: "do", label: "Actions", unsorted: true, show: (hook) => html`<span class="buttons">
      <button type="button" onClick=${() => setShown(hook)}>Messages</button>
      <${Action} run=${() => request(`/v1/webhooks/${hook.id}:test`, { method: "POST" })} ...${ifMay()}>Send a test<//>
      <${Action} ...${ifMay()} class="danger" aria-label=${`Delete the webhook to ${hook.url}`} run=${async () => { if (confirm(`Delete the webhook to ${hook.url}?`)) { await request(`/v1/webhooks/${hook.id}`, { method: "DELETE" }); list.reload(); } }}>Delete<//></span>` },
  ];
  return html`<div class="row"><p>A webhook tells another program, such as a pipeline or a chat, that a job has ended.</p>
      <button type="button" class="primary end" onClick=${() => setShown("new")} ...${ifMay()}>New webhook</button></div>
    <${Problem} error=${list.error} retry=${list.reload} />
    ${list.data?.items.length === 0 && html`<p class="muted">There is no webhook yet. “New webhook” asks for the address of the program that is to be told.</p>`}
    ${list.data?.items.length > 0 && html`<${Table} caption="Webhooks" columns=${columns} rows=${list.data.items} />`}
    ${!list.data && !list.error && html`<${Loading} what="webhooks" />`}
    ${shown === "new" && html`<${NewWebhook} onClose=${() => { setShown(null); list.reload(); }} />`}
    ${shown && shown !== "new" && html`<${Deliveries} webhook=${shown} onClose=${() => setShown(null)} />`}`;
}
