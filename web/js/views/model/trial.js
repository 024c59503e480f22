// One trial: spikes, rates, factors, inferred inputs and behaviour, under each other on one axis of time.

import { html, Empty, Field, Loading, Problem, useEffect, useMemo, useReady, useRef, useState } from "../../ui.js";
import { Plot, useTheme } from "../../plot.js";
import { setQuery } from "../../router.js";
import { distinct, spoken, useConstants, useSession, useTrials } from "./owner.js";
import { useNarrow } from "./controls.js";
import { sourcesOf, useTrialData } from "./trialdata.js";
import { figureOf } from "./trialfigure.js";
import { useNeuronOrder } from "./neurons.js";

const NOTHING = "nothing"; // is hidden, not even what is constant

export default function TrialTab({ owner, route }) {
  const { sessions, session } = useSession(owner, route.query);
  const trials = useTrials(owner, session);
  if (trials.error) return html`<${Problem} error=${trials.error} retry=${trials.reload} />`;
  if (!trials.data) return html`<${Loading} what="the trials" />`;
  return html`<${Stepper} key=${session} owner=${owner} session=${session} sessions=${sessions} trials=${trials.data} query=${route.query} />`;
}

/** Return the positions of the trials that the controls allow. */
function useChosen(trials, query) {
  return useMemo(() => trials.labels.map((_, index) => index).filter((index) =>
    (!query.condition || String(trials.conditions?.[index]) === query.condition) && (!query.split || trials.splits?.[index] === query.split)),
  [trials, query.condition, query.split]);
}

/** Return [position in the chosen trials, function that changes it]. The address follows a little later: browsers limit how often it changes. */
function usePosition(trials, chosen, query) {
  const wished = chosen.findIndex((index) => String(trials.labels[index]) === query.trial);
  const [position, setPosition] = useState(Math.max(0, wished));
  const timer = useRef(0);
  useEffect(() => { if (wished >= 0) setPosition(wished); else if (position >= chosen.length) setPosition(0); }, [wished, chosen]);
  useEffect(() => () => clearTimeout(timer.current), []);
  const move = (to) => {
    const next = Math.min(chosen.length - 1, Math.max(0, to));
    setPosition(next);
    clearTimeout(timer.current);
    timer.current = setTimeout(() => setQuery({ trial: trials.labels[chosen[next]] }), 250);
  };
  return [Math.min(position, Math.max(0, chosen.length - 1)), move];
}

/** Step by the keys ← → and j k, where no field has the focus. */
function useKeys(step) {
  const handler = useRef(step);
  handler.current = step;
  useEffect(() => {
    const press = (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest?.("input, select, textarea, dialog, [contenteditable]")) return;
      const by = { ArrowLeft: -1, k: -1, ArrowRight: 1, j: 1 }[event.key];
      if (by) { event.preventDefault(); handler.current(by); }
    };
    document.addEventListener("keydown", press);
    return () => document.removeEventListener("keydown", press);
  }, []);
}

function Stepper({ owner, session, sessions, trials, query }) {
  const sources = useMemo(() => sourcesOf(owner, session), [owner, session]);
  const constants = useConstants(owner, session, trials);
  const hidden = useMemo(() => (query.hide === undefined ? [...constants ?? []] : query.hide.split(",")), [query.hide, constants]); // constant behaviour, unless the address says otherwise
  const chosen = useChosen(trials, query);
  const [position, move] = usePosition(trials, chosen, query);
  useKeys((by) => move(position + by));
  const index = chosen[position];
  const labelAt = (at) => trials.labels[chosen[at]];
  const ahead = [position + 1, position - 1, position + 2].filter((at) => at >= 0 && at < chosen.length).map(labelAt);
  const shown = useTrialData(sources, index === undefined ? null : labelAt(position), ahead);
  const order = useNeuronOrder(owner, session, query.order);
  useReady(chosen.length === 0 || (shown.data && order.isKnown && constants));
  return html`<${Controls} trials=${trials} sessions=${sessions} session=${session} query=${query} order=${order} sources=${sources} hidden=${hidden} constants=${constants} />
    ${chosen.length === 0 ? html`<${Empty} title="No trial fits"><p><button type="button" onClick=${() => setQuery({ condition: null, split: null })}>Show all trials</button></p><//>`
    : html`<div class="row trial-step">
      <button type="button" onClick=${() => move(position - 1)} disabled=${position === 0} aria-label="Previous trial">←</button>
      <button type="button" onClick=${() => move(position + 1)} disabled=${position === chosen.length - 1} aria-label="Next trial">→</button>
      <label class="trial-slider"><span class="hidden">Trial</span><input type="range" min="0" max=${chosen.length - 1} value=${position}
        aria-valuetext=${`Trial ${labelAt(position)}`} onInput=${(event) => move(Number(event.target.value))} /></label>
      <label>Trial <input type="number" class="short" value=${labelAt(position)} onChange=${(event) => { const at = chosen.findIndex((one) => String(trials.labels[one]) === event.target.value); if (at >= 0) move(at); }} /></label>
      <span class="muted">${position + 1} of ${chosen.length}</span>
      <span><${TrialFacts} trials=${trials} index=${index} /></span>
      <span class="muted end">Keys: ← → or j k</span></div>
    <${Problem} error=${shown.error ?? order.error} />
    ${shown.data && constants ? html`<${Figure} trials=${trials} sources=${sources} shown=${shown} query=${query} order=${order} hidden=${hidden} />` : !shown.error && html`<${Loading} what="the trial" />`}`}`;
}

function TrialFacts({ trials, index }) {
  const parts = [];
  if (trials.conditions) parts.push(`${spoken(trials.conditionName)} ${trials.conditions[index] ?? "not given"}`);
  if (trials.splits?.[index]) parts.push({ train: "training trial", valid: "validation trial", test: "test trial", gap: "trial of no part" }[trials.splits[index]]);
  return parts.join(" · ");
}

function Controls({ trials, sessions, session, query, order, sources, hidden, constants }) {
  const toggle = (key) => setQuery({ hide: (hidden.includes(key) ? hidden.filter((one) => one !== key) : [...hidden, key]).filter((one) => one && one !== NOTHING).join(",") || (constants?.size ? NOTHING : null) });
  const values = distinct(trials.conditions);
  const splits = distinct(trials.splits);
  const choice = (name) => (event) => setQuery({ [name]: event.target.value || null });
  return html`<div class="row trial-controls">
    ${sessions.length > 1 && html`<${Field} label="Session">${(attributes) => html`<select value=${session} onChange=${choice("session")} ...${attributes}>
      ${sessions.map((one) => html`<option value=${one}>${one + 1}</option>`)}</select>`}<//>`}
    ${values.length > 1 && html`<${Field} label=${trials.conditionName === "condition" ? "Condition" : `Condition: ${spoken(trials.conditionName)}`}>${(attributes) => html`<select value=${query.condition ?? ""} onChange=${choice("condition")} ...${attributes}>
      <option value="">all</option>${values.map((one) => html`<option value=${one}>${one}</option>`)}</select>`}<//>`}
    ${splits.length > 1 && html`<${Field} label="Part" help="Validation trials selected the model. Test trials were used for nothing.">${(attributes) => html`<select value=${query.split ?? ""} onChange=${choice("split")} ...${attributes}>
      <option value="">all</option>${splits.map((one) => html`<option value=${one}>${{ train: "training", valid: "validation" }[one] ?? one}</option>`)}</select>`}<//>`}
    <${Field} label="Neurons" help=${order.help}>${(attributes) => html`<select value=${order.kind} onChange=${choice("order")} ...${attributes}>
      ${order.kinds.map(([key, label]) => html`<option value=${key}>${label}</option>`)}</select>`}<//>
    <${Field} label="Rates as">${(attributes) => html`<select value=${query.rates ?? "own"} onChange=${choice("rates")} ...${attributes}>
      <option value="own">heat map, each neuron by its maximum</option><option value="map">heat map, all neurons by one scale</option><option value="lines">lines of chosen neurons</option></select>`}<//>
    ${query.rates === "lines" && html`<${Field} label="Chosen neurons" help="Numbers of neurons, separated by commas. Empty: the first four in the order.">${(attributes) => html`<input value=${query.neurons ?? ""} placeholder=${order.first(4).join(", ")}
      onChange=${choice("neurons")} ...${attributes} />`}<//>`}
    <fieldset class="choices"><legend>Shown</legend>${sources.map(({ key, title }) => html`<label><input type="checkbox" checked=${!hidden.includes(key)} onChange=${() => toggle(key)} /> ${title}${constants?.has(key) ? " (constant)" : ""}</label>`)}</fieldset>
  </div>`;
}

function Figure({ trials, sources, shown, query, order, hidden }) {
  const theme = useTheme();
  const isNarrow = useNarrow();
  const scale = useRef({});
  const visible = useMemo(() => sources.filter(({ key }) => !hidden.includes(key)), [sources, hidden]);
  const index = trials.labels.indexOf(shown.label);
  const figure = useMemo(() => figureOf({
    sources: visible, data: shown.data, trials, index, order, scale: scale.current, mode: query.rates ?? "own",
    isNarrow, neurons: (query.neurons ?? "").split(",").map((text) => text.trim()).filter(Boolean).map(Number),
  }), [visible, shown.data, trials, index, order, query.rates, query.neurons, isNarrow, theme]);
  const rates = sources.find(({ key }) => key === "rates") ?? sources[0];
  const request = useMemo(() => ({ [rates.dim]: shown.label }), [rates, shown.label]);
  return html`<${Plot} title=${`Trial ${shown.label}`} note=${`“Save…” has all panels as CSV, and its ${rates.title.toLowerCase()} as npy`} traces=${figure.traces} layout=${figure.layout} height=${figure.height}
    path=${rates.path} query=${request} />`;
}
