// How a file was read: what was understood, each guess with its alternatives, warnings with what to do, and the form of all options.

import { html, useEffect, useId, useMemo, useRef, useState, Action, Field } from "../../ui.js";
import { ifMay, request, urlOf } from "../../api.js";
import { CodeLines } from "../../code.js";
import { go } from "../../router.js";
import { number } from "../../format.js";
import { GROUPS, FIELDS, guessesOf, inWords, knownNames, mendsOf, patchOf, pathsIn, saidChange, textOf, valueAt, valueOf } from "./options.js";

/** A draft of changed options, and how to change it. A change that is undefined is taken back. */
export function useDraft() {
  const [draft, setDraft] = useState({});
  const change = (changes) => setDraft((old) => {
    const next = { ...old, ...changes };
    for (const [path, value] of Object.entries(next)) if (value === undefined) delete next[path];
    return next;
  });
  return { draft, change, clear: () => setDraft({}) };
}

const isIn = (draft, changes) => Object.entries(changes).every(([path, value]) => JSON.stringify(draft[path]) === JSON.stringify(value));
const taken = (changes) => Object.fromEntries(Object.keys(changes).map((path) => [path, undefined]));

/** Each guess as a choice. */
export function Guesses({ dataset, draft, change, isFixed, onPath }) {
  const guesses = useMemo(() => guessesOf(dataset), [dataset]);
  if (!guesses.length) return null;
  return html`<h2>What was guessed</h2>
    ${!isFixed && html`<p class="muted small">If a guess is wrong, choose another. The file is then read again; you need not upload it again.</p>`}
    <div class="guesses">${guesses.map((guess) => html`<${Guess} key=${guess.key} guess=${guess} draft=${draft} change=${change} isFixed=${isFixed} onPath=${onPath} />`)}</div>`;
}

function Guess({ guess, draft, change, isFixed, onPath }) {
  const id = useId();
  const chosen = guess.choices.findIndex(({ changes }) => changes && isIn(draft, changes));
  const choose = (event) => {
    for (const { changes } of guess.choices) if (changes && isIn(draft, changes)) change(taken(changes));
    const { changes } = guess.choices[Number(event.target.value)];
    if (changes) change(changes);
  };
  return html`<label for=${id}>${guess.title}</label>
    <span>${isFixed ? guess.choices[0].label : html`<select id=${id} class=${chosen > 0 ? "changed" : ""} value=${Math.max(0, chosen)} onChange=${choose}>
      ${guess.choices.map(({ label }, index) => html`<option value=${index}>${label}</option>`)}</select>`} <span class="muted small">${guess.how}</span>
      ${guess.path && !isFixed && html` <button type="button" class="plain small" onClick=${() => onPath(guess.path)}>${FIELDS.get(guess.path)[1]}…</button>`}</span>`;
}

/** A text with names in backticks as code. */
function Told({ text }) {
  return text.split("`").map((part, index) => (index % 2 ? html`<code>${part}</code>` : part));
}

/** Warnings, or the problems of a rejected file: what is wrong, what to do, and buttons that do it. */
export function Messages({ dataset, messages, draft, change, isFixed, isBad, onPath }) {
  return html`<ul class="plain-list">${messages.map((message) => html`<li class=${isBad ? "problem" : "warning"}>
    <p><strong><${Told} text=${message.message} /></strong></p>
    ${message.hint && html`<p class="muted"><${Told} text=${isFixed ? message.hint : inWords(message.hint)} /></p>`}
    ${!isFixed && html`<${Mends} message=${message} dataset=${dataset} draft=${draft} change=${change} onPath=${onPath} />`}</li>`)}</ul>`;
}

const MANY = 5;

function Mends({ message, dataset, draft, change, onPath }) {
  const mends = useMemo(() => mendsOf(message, dataset), [message, dataset]);
  const paths = useMemo(() => pathsIn(message).filter((path) => !mends.some(({ changes }) => path in changes)), [message, mends]);
  if (!mends.length && !paths.length) return null;
  const own = mends.map(({ changes }) => Object.keys(changes)[0]);
  const label = mends.length > 1 && own.every((path) => path === own[0]) ? FIELDS.get(own[0])[1] : "";
  const short = (mend) => (label ? mend.label.replace(`${label}: `, "") : mend.label);
  const chosen = mends.findIndex(({ changes }) => isIn(draft, changes));
  const choose = (index) => {
    const before = chosen < 0 ? {} : taken(mends[chosen].changes);
    change({ ...before, ...(index < 0 || index === chosen ? {} : mends[index].changes) });
  };
  return html`<div class="buttons mends">${label && html`<span>${label}:</span>`}
    ${mends.length > MANY
    ? html`<select aria-label=${label || "What to do"} value=${chosen} onChange=${(event) => choose(Number(event.target.value))}><option value="-1">choose…</option>
        ${mends.map((mend, index) => html`<option value=${index}>${short(mend)}</option>`)}</select>`
    : mends.map((mend, index) => html`<button type="button" aria-pressed=${index === chosen} onClick=${() => choose(index)}>${short(mend)}</button>`)}
    ${paths.map((path) => html`<button type="button" class="plain" onClick=${() => onPath(path)}>${FIELDS.get(path)[1]}…</button>`)}</div>`;
}

/** The bar that says what will change, and reads the file again. */
export function DraftBar({ dataset, draft, clear }) {
  const entries = Object.entries(draft);
  const [name, setName] = useState(null);
  if (!entries.length) return null;
  const path = `/v1/datasets/${dataset.id}:derive`;
  const body = { options: patchOf(draft), ...(name ? { name } : {}) };
  const run = async () => {
    const derived = await request(path, { method: "POST", json: body });
    go(`/datasets/${derived.id}`, { instead_of: derived.id === dataset.id ? null : dataset.id });
  };
  return html`<section class="card draft" aria-label="Changes">
    <div class="row"><b>Read the file again with</b> ${entries.map(([key, value]) => html`<span class="tag">${saidChange(key, value)}</span>`)}
      <span class="end buttons"><input aria-label="Name of the new data set" placeholder=${`Name: ${dataset.name}`} value=${name ?? ""} onInput=${(event) => setName(event.target.value)} />
        <${Action} class="primary" run=${run} ...${ifMay()}>Read again<//> <button type="button" onClick=${clear}>Undo</button></span></div>
    <p class="muted small">This makes a data set of its own. The present one stays; you can delete it afterwards.</p>
    <details><summary>The same in a program</summary><${CodeLines} code=${codeOf(path, body)} /></details>
  </section>`;
}

function codeOf(path, body) {
  const json = JSON.stringify(body);
  const id = path.split("/").pop().split(":")[0];
  return {
    Python: ["from latentry import Client", "", `client = Client("${urlOf("/").replace(/\/$/, "")}")`,
      `dataset = client.derive_dataset("${id}", ${pythonOf(body.options)}${body.name ? `, name=${pythonOf(body.name)}` : ""})`],
    curl: [`curl --fail-with-body --json '${json.replaceAll("'", "'\\''")}' '${urlOf(path)}'`],
  };
}

function pythonOf(value) {
  if (value === null) return "None";
  if (typeof value === "boolean") return value ? "True" : "False";
  if (Array.isArray(value)) return `[${value.map(pythonOf).join(", ")}]`;
  if (typeof value === "object") return `{${Object.entries(value).map(([key, item]) => `${JSON.stringify(key)}: ${pythonOf(item)}`).join(", ")}}`;
  return JSON.stringify(value);
}

/** All options. `first`: paths of options that a problem names; they are shown before the others. `focus`: the option to show now. */
export function OptionsForm({ dataset, draft, change, focus }) {
  const names = useMemo(() => knownNames(dataset), [dataset]);
  const list = useId();
  return html`<datalist id=${list}>${names.map((name) => html`<option value=${name} />`)}</datalist>
    ${GROUPS.map(([title, fields], index) => {
      const isOpen = index === 0 || fields.some(([path]) => path === focus?.path || path in draft || valueAt(dataset.options, path) !== undefined);
      return html`<${Group} key=${title} title=${title} isOpen=${isOpen}>${fields.map((field) => html`<${Option} key=${field[0]} field=${field} dataset=${dataset}
        draft=${draft} change=${change} list=${list} focus=${focus} />`)}<//>`;
    })}`;
}

function Group({ title, isOpen, children }) {
  const element = useRef(null);
  useEffect(() => { if (isOpen) element.current.open = true; }, [isOpen]);
  return html`<details ref=${element}><summary>${title}</summary><div class="small-fields">${children}</div></details>`;
}

function Option({ field, dataset, draft, change, list, focus }) {
  const [path, label, kind, help, choices] = field;
  const stored = valueAt(dataset.options, path);
  const value = path in draft ? draft[path] : stored;
  const [typed, setTyped] = useState(null);
  const [error, setError] = useState("");
  const control = useRef(null);
  useEffect(() => {
    if (focus?.path !== path) return;
    control.current?.scrollIntoView({ block: "center" });
    control.current?.focus();
  }, [focus]);
  const take = (text) => {
    setTyped(text);
    try {
      const next = valueOf(kind, text);
      change({ [path]: JSON.stringify(next) === JSON.stringify(stored ?? null) ? undefined : next });
      setError("");
    } catch (caught) { setError(caught.message); }
  };
  const shown = error ? typed : textOf(kind, value);
  return html`<${Field} label=${label} unit=${kind === "ms" ? "ms" : undefined} help=${help} error=${error}>${(attributes) => (kind === "choice" || kind === "order"
    ? html`<select ref=${control} value=${shown} class=${path in draft ? "changed" : ""} onChange=${(event) => take(event.target.value)} ...${attributes}>
        ${(kind === "order" ? orderChoices() : choices).map(([key, text]) => html`<option value=${key}>${text}</option>`)}</select>`
    : html`<input ref=${control} class=${path in draft ? "changed" : ""} list=${["name", "names"].includes(kind) ? list : undefined} value=${shown}
        placeholder=${path === "bin_width_s" && dataset.bin_width_s ? number(1000 * dataset.bin_width_s) : ""} onChange=${(event) => take(event.target.value)} ...${attributes} />`)}<//>`;
}

function orderChoices() {
  const three = [["trial", "bin", "neuron"], ["trial", "neuron", "bin"], ["bin", "trial", "neuron"], ["bin", "neuron", "trial"], ["neuron", "trial", "bin"], ["neuron", "bin", "trial"]];
  const two = [["bin", "neuron"], ["neuron", "bin"], ["trial", "neuron"], ["neuron", "trial"]];
  return [["", "find out"], ...[...three, ...two].map((order) => [order.join(", "), order.map((role) => `${role}s`).join(" × ")])];
}
