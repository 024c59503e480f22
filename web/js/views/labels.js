// The name, notes and tags of a data set or a job, and a dialog that changes them.

import { html, useState, Dialog, Field, Problem, Tags } from "../ui.js";
import { ifMay, request } from "../api.js";

/**
 * Notes and tags, with a button that changes them and the name.
 *
 * path: such as `/v1/datasets/dat_1`; item: its document; onChanged: gets the new document; canChange: whether to show the button
 */
export function Labels({ path, item, onChanged, canChange = true }) {
  const [isOpen, setOpen] = useState(false);
  return html`<div class="row">${item.tags.length > 0 && html`<${Tags} tags=${item.tags} />`}
      ${canChange && html`<button type="button" class="plain flush" aria-haspopup="dialog" onClick=${() => setOpen(true)} ...${ifMay()}>Name, notes, tags…</button>`}</div>
    ${item.notes && html`<p class="notes">${item.notes}</p>`}
    ${isOpen && html`<${Edit} path=${path} item=${item} onClose=${() => setOpen(false)} onChanged=${onChanged} />`}`;
}

function Edit({ path, item, onClose, onChanged }) {
  const [fields, setFields] = useState({ name: item.name, notes: item.notes, tags: item.tags.join(", ") });
  const [error, setError] = useState(null);
  const set = (name) => (event) => setFields({ ...fields, [name]: event.target.value });
  const save = async (event) => {
    event.preventDefault();
    try {
      const tags = fields.tags.split(",").map((tag) => tag.trim()).filter(Boolean);
      onChanged(await request(path, { method: "PATCH", json: { ...fields, tags } }));
      onClose();
    } catch (caught) { setError(caught); }
  };
  return html`<${Dialog} title="Name, notes, tags" onClose=${onClose}><form onSubmit=${save}>
    <${Field} label="Name">${(attributes) => html`<input maxlength="200" value=${fields.name} onInput=${set("name")} ...${attributes} />`}<//>
    <${Field} label="Notes">${(attributes) => html`<textarea rows="4" maxlength="10000" value=${fields.notes} onInput=${set("notes")} ...${attributes}></textarea>`}<//>
    <${Field} label="Tags" help="Separated by commas. Lists can be filtered by tags.">${(attributes) => html`<input value=${fields.tags} onInput=${set("tags")} ...${attributes} />`}<//>
    <${Problem} error=${error} />
    <p class="buttons"><button class="primary">Save</button> <button type="button" onClick=${onClose}>Cancel</button></p>
  </form><//>`;
}
