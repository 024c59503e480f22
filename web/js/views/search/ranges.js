// A hyperparameter: a range with two handles, a fixed value, or a list.

import { html, useHelp, useId, useState } from "../../ui.js";
import { nameOfValue, short } from "../job/words.js";
import { Described, FieldNotes } from "./fields.js";
import { schemaAt } from "./schema.js";

const STEPS = 200;
/** Ends of the sliders. The service allows more for weights and learning rates; numbers can be typed. */
const ENDS = { learning_rate: [1e-6, 0.1], rate: [0, 0.95], weight: [1e-8, 10] };

function endsOf(name, value) {
  const [low, high] = ENDS[name] ?? ENDS[name.includes("weight") ? "weight" : "rate"];
  return [Math.min(low, value.low > 0 || low === 0 ? value.low : low), Math.max(high, value.high)];
}

/** Return { at, valueAt } between positions of a slider (0 to STEPS) and values. */
function scaleOf([low, high], isLog) {
  const [a, b] = isLog ? [Math.log10(low), Math.log10(high)] : [low, high];
  return {
    at: (value) => Math.round((STEPS * ((isLog ? Math.log10(Math.max(value, low)) : value) - a)) / (b - a)),
    valueAt: (position) => { const value = a + (position / STEPS) * (b - a); return Number((isLog ? 10 ** value : value).toPrecision(3)); },
  };
}

function modeOf(value) {
  if (Array.isArray(value)) return "list";
  return typeof value === "object" ? "range" : "fixed";
}

/** Return a value of another mode, near the present one. */
function converted(value, mode, name) {
  const [low, high] = Array.isArray(value) ? [Math.min(...value), Math.max(...value)] : typeof value === "object" ? [value.low, value.high] : [value, value];
  const isLog = /weight|learning/.test(name);
  const middle = isLog && low > 0 ? Number(Math.sqrt(low * high).toPrecision(2)) : Number(((low + high) / 2).toPrecision(2));
  if (mode === "fixed") return middle;
  if (mode === "list") return [...new Set([low, middle, high])];
  if (low < high) return { low, high, scale: isLog && low > 0 ? "log" : "uniform" };
  if (isLog) return { low: (middle || 1e-4) / 10, high: (middle || 1e-4) * 10, scale: "log" };
  return { low: Math.max(0, middle - 0.1), high: Math.min(0.95, middle + 0.1), scale: "uniform" };
}

export function Hyperparameter({ search, name }) {
  const { schemas, given, effective, messages, set } = search;
  const path = ["space", name];
  const id = useId();
  const own = given.space?.[name];
  const value = own ?? effective.space[name];
  const mode = modeOf(value);
  const label = nameOfValue(name);
  const help = useHelp(label, html`<${Described} text=${schemaAt(schemas, path)?.description} />`);
  const errors = messages.errorsAt(path);
  return html`<div class=${`search-field hyperparameter${own === undefined ? "" : " changed"}`} role="group" aria-labelledby=${id} data-field=${path.join(".")}>
    <span class="field-label"><span id=${id}>${label[0].toUpperCase() + label.slice(1)}</span>
      ${help.button}
      <select class="end small" aria-label=${`How to search ${label}`} value=${mode} onChange=${(event) => set(path, converted(value, event.target.value, name))}>
        <option value="range">range</option><option value="fixed">fixed value</option><option value="list">list</option></select></span>
    ${mode === "range" && html`<${RangeControl} name=${name} label=${label} value=${value} onChange=${(next) => set(path, next)} />`}
    ${mode === "fixed" && html`<${NumberControl} label=${label} value=${value} onChange=${(next) => set(path, next)} />`}
    ${mode === "list" && html`<${ListControl} label=${label} value=${value} onChange=${(next) => set(path, next)} />`}
    ${help.text}
    ${errors.length > 0 && html`<p class="field-error" role="alert">${errors.join(" ")}</p>`}
    <${FieldNotes} messages=${messages} path=${path} isChanged=${own !== undefined} onReset=${() => set(path, undefined)} name=${label} />
  </div>`;
}

function RangeControl({ name, label, value, onChange }) {
  const isLog = value.scale === "log";
  const { at, valueAt } = scaleOf(endsOf(name, value), isLog);
  const slider = (end, other) => html`<input type="range" min="0" max=${STEPS} value=${at(value[end])} aria-label=${`${label}, ${end === "low" ? "lowest" : "highest"} value`} aria-valuetext=${short(value[end])}
    onInput=${(event) => {
    const next = valueAt(Number(event.target.value));
    onChange({ ...value, [end]: end === "low" ? Math.min(next, value[other]) : Math.max(next, value[other]) });
  }} />`;
  return html`<div class="range"><${NumberControl} label=${`${label}, lowest value`} value=${value.low} onChange=${(low) => onChange({ ...value, low })} />
    <span class="handles" style=${{ "--from": `${at(value.low) / 2}%`, "--to": `${at(value.high) / 2}%` }}>${slider("low", "high")}${slider("high", "low")}</span>
    <${NumberControl} label=${`${label}, highest value`} value=${value.high} onChange=${(high) => onChange({ ...value, high })} />
    <label class="small nowrap"><input type="checkbox" checked=${isLog} onChange=${() => onChange({ ...value, scale: isLog ? "uniform" : "log" })} /> log</label></div>`;
}

function NumberControl({ label, value, onChange }) {
  const [text, setText] = useState(null);
  const change = (event) => {
    setText(event.target.value);
    if (event.target.value.trim() !== "" && Number.isFinite(Number(event.target.value))) onChange(Number(event.target.value));
  };
  return html`<input class="short" inputmode="decimal" aria-label=${label} value=${text ?? short(value)} onInput=${change} onBlur=${() => setText(null)} />`;
}

function ListControl({ label, value, onChange }) {
  const [text, setText] = useState(null);
  const change = (event) => {
    setText(event.target.value);
    const numbers = event.target.value.split(/[,\s]+/).filter(Boolean).map(Number);
    if (numbers.length && numbers.every(Number.isFinite)) onChange(numbers);
  };
  return html`<input aria-label=${`${label}, values separated by commas`} value=${text ?? value.map(short).join(", ")} onInput=${change} onBlur=${() => setText(null)} />`;
}
