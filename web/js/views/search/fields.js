// One field of a search, made from its description in the OpenAPI document.

import { html, useState, Field } from "../../ui.js";
import { nameOfValue } from "../job/words.js";
import { getAt } from "./form.js";
import { controlOf, schemaAt } from "./schema.js";

/** A text with `code`. */
export function Described({ text }) {
  return html`${(text ?? "").split("`").map((part, index) => (index % 2 ? html`<code>${part}</code>` : part))}`;
}

/** A control for text that stays as it is typed, also while it is not a valid value. parse: text => value, or undefined for the default */
function Typed({ value, show, parse, onChange, attributes, isLong }) {
  const [text, setText] = useState(null);
  const props = {
    ...attributes, value: text ?? show(value),
    onInput: (event) => {
      setText(event.target.value);
      const parsed = parse(event.target.value);
      event.target.setCustomValidity(Number.isNaN(parsed) ? "This is no number." : "");
      if (!Number.isNaN(parsed)) onChange(parsed);
    },
    onBlur: () => setText(null),
  };
  return isLong ? html`<textarea rows="3" spellcheck="false" ...${props}></textarea>` : html`<input ...${props} />`;
}

const toNumber = (factor) => (text) => (text.trim() === "" ? undefined : Number(text) * factor);
const toNumbers = (isSingle) => (text) => {
  const numbers = text.split(/[,\s]+/).filter(Boolean).map(Number);
  if (!numbers.length) return undefined;
  if (numbers.some(Number.isNaN)) return NaN;
  return isSingle && numbers.length === 1 ? numbers[0] : numbers;
};
const toDocument = (text) => {
  if (!text.trim()) return undefined;
  try { return JSON.parse(text); } catch { return NaN; }
};

/** The control of a field. factor: of the unit that people read, such as 60 for minutes. */
function Control({ control, value, onChange, attributes, factor = 1 }) {
  const { kind, choices, isNullable, isSingle } = control;
  if (kind === "boolean") {
    return html`<select value=${String(value)} onChange=${(event) => onChange(event.target.value === "true")} ...${attributes}><option value="true">yes</option><option value="false">no</option></select>`;
  }
  if (kind === "choice") {
    return html`<select value=${value ?? ""} onChange=${(event) => onChange(event.target.value || undefined)} ...${attributes}>
      ${isNullable && html`<option value="">none</option>`}${choices.map((name) => html`<option value=${name}>${name.replaceAll("_", " ")}</option>`)}</select>`;
  }
  if (kind === "choices") {
    const chosen = [value ?? []].flat();
    const toggle = (name) => {
      const next = choices.filter((one) => (one === name ? !chosen.includes(one) : chosen.includes(one)));
      if (next.length) onChange(isSingle && next.length === 1 ? next[0] : next);
    };
    return html`<span role="group" ...${attributes} class="checks">${choices.map((name) => html`<label><input type="checkbox" checked=${chosen.includes(name)} onChange=${() => toggle(name)} /> ${name.replaceAll("_", " ")}</label> `)}</span>`;
  }
  const shown = (one) => (one === null || one === undefined ? "" : String(Number((one / factor).toPrecision(12))));
  if (kind === "number") {
    return html`<${Typed} value=${value} show=${shown} parse=${toNumber(factor)} onChange=${onChange}
      attributes=${{ type: "number", step: control.isInteger ? 1 : "any", min: control.min === undefined ? undefined : control.min / factor, max: control.max, placeholder: isNullable ? control.whenNull : "", ...attributes }} />`;
  }
  if (kind === "numbers") {
    return html`<${Typed} value=${value} show=${(one) => [one ?? []].flat().join(", ")} parse=${toNumbers(isSingle)} onChange=${onChange} attributes=${{ inputmode: "numeric", placeholder: isNullable ? "chosen by the service" : "none", ...attributes }} />`;
  }
  if (kind === "text") return html`<${Typed} value=${value} show=${(one) => one ?? ""} parse=${(text) => text || undefined} onChange=${onChange} attributes=${{ maxlength: control.max, ...attributes }} />`;
  return html`<${Typed} isLong value=${value} show=${(one) => JSON.stringify(one ?? {})} parse=${toDocument} onChange=${onChange} attributes=${attributes} />`;
}

const LISTS = { numbers: " Several numbers, separated by commas, are searched.", choices: " Several choices are searched." };

/**
 * A field with label, help, errors and warnings beside it.
 *
 * search: { schemas, given, effective, messages, set }; path: of the field; label, unit, help: in place of the generated ones
 */
export function SearchField({ search, path, label, unit, help, factor }) {
  const { schemas, given, effective, messages, set } = search;
  const schema = schemaAt(schemas, path, effective.strategy.kind);
  if (!schema) return null;
  const control = { ...controlOf(schemas, schema), whenNull: path[0] === "budget" ? "no limit" : "chosen by the service" };
  const own = getAt(given, path);
  const isChanged = own !== undefined;
  const text = (help ?? schema.description ?? "") + (control.isSingle ? LISTS[control.kind] ?? "" : "");
  const words = label ?? nameOfValue(path.at(-1));
  return html`<div class=${`search-field${isChanged ? " changed" : ""}`} data-field=${path.join(".")}>
    <${Field} label=${words[0].toUpperCase() + words.slice(1)} unit=${unit} help=${html`<${Described} text=${text} />`} error=${messages.errorsAt(path).join(" ")}>
      ${(attributes) => html`<${Control} control=${control} value=${isChanged ? own : getAt(effective, path)} factor=${factor} attributes=${attributes} onChange=${(value) => set(path, value)} />`}<//>
    <${FieldNotes} messages=${messages} path=${path} isChanged=${isChanged} onReset=${() => set(path, undefined)} name=${words} />
  </div>`;
}

/** Warnings of a field, and a button that takes back a change. */
export function FieldNotes({ messages, path, isChanged, onReset, name }) {
  return html`${messages.warningsAt(path).map((text) => html`<p class="field-warning">${text}</p>`)}
    ${isChanged && html`<button type="button" class="plain small reset" aria-label=${`Reset ${name}`} onClick=${onReset}>reset</button>`}`;
}
