// Trajectories in three dimensions: averaged by condition or single trials, coloured, and moved along time.

import { html, Empty, Field, Loading, Problem, useEffect, useMemo, useReady, useRef, useState } from "../../ui.js";
import { useLoaded } from "../../api.js";
import { Plot, timeTitle, useTheme } from "../../plot.js";
import { number, percent } from "../../format.js";
import { go, setQuery } from "../../router.js";
import { behavioursOf, distinct, groupingsOf, metadataOf, named, readColumn, spoken, useSession, useTrials } from "./owner.js";
import { Choice, Filter, useNarrow, whereOf } from "./controls.js";
import { colouringOf, figureOf } from "./trajectoryfigure.js";
import { useTrajectories } from "./trajectorydata.js";

const ARRAYS = { factors: "factors", rates: "rates", generator_states: "generator states", inputs: "inferred inputs" };
const HEIGHT = 600;
const PLAY_SECONDS = 5;

export default function TrajectoriesTab({ owner, route }) {
  const { sessions, session } = useSession(owner, route.query);
  const trials = useTrials(owner, session);
  if (trials.error) return html`<${Problem} error=${trials.error} retry=${trials.reload} />`;
  if (!trials.data) return html`<${Loading} what="the trials" />`;
  return html`<${Trajectories} owner=${owner} sessions=${sessions} session=${session} trials=${trials.data} query=${route.query} />`;
}

/** Return the choices of the address, with defaults for what it does not say. */
function choiceOf(owner, session, trials, query) {
  const arrays = Object.keys(ARRAYS).filter((name) => owner.arrays[named(name, session)] ?? owner.arrays[name]);
  const array = arrays.includes(query.array) ? query.array : arrays[0];
  const events = Object.keys(trials.events);
  const align = events.includes(query.align) ? query.align : "";
  const isAveraged = trials.conditionName && query.trials !== "single";
  const [component, behaviour] = behaviourOf(owner, session, query.colour);
  return {
    arrays, events, array, isAveraged: Boolean(isAveraged), by: query.by ?? trials.conditionName, align, window: windowOf(query.window, trials, align),
    split: query.split ?? "", where: whereOf(query), axes: /^\d+,\d+(,\d+)?$/.test(query.axes ?? "") ? query.axes : "",
    behaviour: behaviour && { name: behaviour, component }, colour: query.colour ?? (trials.conditionName || "time"),
  };
}

function behaviourOf(owner, session, colour) {
  const [kind, plain, component] = (colour ?? "").split(":");
  const name = named(plain, session);
  return kind === "behaviour" && owner.dataArrays[name] ? [component === "length" ? "length" : Number(component), name] : [null, null];
}

/** Return the window around an event: that of the address, or what most trials have. */
export function windowOf(text, trials, event) {
  const given = /^(-?[\d.]+):(-?[\d.]+)$/.exec(text ?? "");
  if (given && Number(given[1]) < Number(given[2])) return [Number(given[1]), Number(given[2])];
  if (!event) return null;
  const times = trials.events[event].filter((time) => time !== null).sort((a, b) => a - b);
  const middle = times[Math.floor(times.length / 2)];
  const round = (value) => Math.round(value / trials.width) * trials.width;
  return [Math.max(-0.5, trials.span[0] - middle), Math.min(0.8, trials.span[1] - middle)].map((value) => Number(round(value).toFixed(4)));
}

function Trajectories({ owner, sessions, session, trials, query }) {
  const key = JSON.stringify([query.array, query.trials, query.by, query.align, query.window, query.split, query.colour, query.axes, query.where_name, query.where_op, query.where_value]);
  const choice = useMemo(() => choiceOf(owner, session, trials, query), [owner, session, trials, key]);
  const { arrays, events, ...asked } = choice;
  const loaded = useTrajectories(owner, session, trials, { ...asked, colour: asked.behaviour ? asked.colour : null });
  const found = loaded.data;
  useReady(found);
  return html`<${Controls} owner=${owner} sessions=${sessions} session=${session} trials=${trials} choice=${choice} query=${query} />
    <${Problem} error=${loaded.error} retry=${loaded.reload} />
    ${!found && !loaded.error && html`<${Loading} what="the trajectories" />`}
    ${found?.rows.length === 0 && html`<${Empty} title="No trial fits"><p>Change the filter.</p><//>`}
    ${found?.rows.length > 0 && html`<${Scene} owner=${owner} session=${session} trials=${trials} found=${found} choice=${choice} query=${query} />`}`;
}

/** Return the metadata that colours single trials, by the number of the trial. */
function useColumns(owner, session, trials, name) {
  const item = metadataOf(owner, session).find((one) => one.name === name)?.item;
  const { data } = useLoaded(() => (item ? readColumn(owner.dataPath, item) : Promise.resolve(null)), [owner.path, session ?? null, name]);
  return useMemo(() => data && new Map(trials.labels.map((label, index) => [label, data[session === null ? label : index]])), [data, trials]);
}

function Scene({ owner, session, trials, found, choice, query }) {
  const columns = useColumns(owner, session, trials, choice.isAveraged ? null : choice.colour);
  const [isMoving, setMoving] = useState(false);
  const isNarrow = useNarrow();
  const theme = useTheme();
  const plot = useRef(null);
  const epochEvent = query.epochs && trials.events[query.epochs] ? query.epochs : query.epochs === "none" ? null : choice.align || null;
  const figure = useMemo(() => {
    const colouring = colouringOf(found, trials, choice.colour, columns);
    const epochs = epochEvent && ((row) => timeInRow(row, trials, choice, epochEvent));
    return figureOf({ found, colouring, epochs, eventName: epochEvent, axisTitles: titlesOf(found, choice), isMoving, isNarrow });
  }, [found, columns, choice, epochEvent, isMoving, isNarrow, theme]);
  const open = ({ points: [{ customdata }] }) => {
    const label = customdata?.[1];
    if (label !== undefined && label !== null) go(owner.path.replace("/v1", ""), { tab: "trial", trial: label, session });
  };
  return html`<${Player} found=${found} choice=${choice} plot=${plot} figure=${figure} isMoving=${isMoving} setMoving=${setMoving} />
    <${Plot} key=${isNarrow /* Plotly leaves the margins of a colour bar that is turned */} title=${titleOf(choice)} note=${noteOf(found, choice, epochEvent)} traces=${figure.traces} layout=${figure.layout} height=${HEIGHT} path=${found.path} query=${found.query} plotRef=${plot} on=${{ plotly_click: open }} />`;
}

/** Return when an event happened, on the axis of time of a trajectory. For averages, the mean over the trials of the condition. */
function timeInRow(row, trials, choice, event) {
  if (event === choice.align) return 0;
  const shifted = (index) => {
    const time = trials.events[event][index];
    const zero = choice.align ? trials.events[choice.align][index] : 0;
    return time === null || zero === null ? null : time - zero;
  };
  if (!choice.isAveraged) return shifted(row.index);
  const times = trials.labels.map((_, index) => index).filter((index) => choice.by !== trials.conditionName || trials.conditions[index] === row.value).map(shifted).filter((time) => time !== null);
  return times.length ? times.reduce((sum, time) => sum + time, 0) / times.length : null;
}

function titlesOf(found, choice) {
  const word = { factors: "Factor", generator_states: "State", inputs: "Input", rates: "Neuron" }[choice.array];
  const ratios = found.attributes.explained_variance_ratio ?? [];
  const names = choice.axes ? choice.axes.split(",").map((index) => `${word} ${index} (a.u.)`)
    : [0, 1, 2].map((index) => `PC ${index + 1}${ratios[index] === undefined ? "" : ` (${percent(ratios[index])})`}`);
  return [0, 1, 2].map((index) => (index < found.shape[2] ? names[index] : index === 2 ? timeTitle() : ""));
}

function titleOf(choice) {
  return `${choice.axes ? "" : "Principal components of "}${ARRAYS[choice.array]}${choice.isAveraged ? `, averaged by ${spoken(choice.by)}` : ", single trials"}`;
}

function noteOf(found, choice, epochEvent) {
  const parts = [choice.isAveraged ? `${found.total} trials` : found.drawn < found.total ? `${found.drawn} of ${found.total} trials, evenly spaced` : `${found.total} trials`];
  if (choice.align) parts.push(`0 s is ${spoken(choice.align)}`);
  if (found.few) parts.push(found.few);
  if (epochEvent) parts.push(`thin before ${spoken(epochEvent)}, thick after`);
  return parts.join(" · ");
}

/** Play, pause, and a slider of time. Frames change two small traces only. */
function Player({ found, choice, plot, figure, isMoving, setMoving }) {
  const [bin, setBin] = useState(0);
  const [isPlaying, setPlaying] = useState(false);
  const isCalm = matchMedia("(prefers-reduced-motion: reduce)").matches;
  const bins = found.shape[1];
  const now = useRef(0);
  const draw = (at) => {
    now.current = at;
    setBin(at);
    const { element, Plotly } = plot.current ?? {};
    if (!isMoving || !element?.data || element.data.at(-1).name !== "now") return;
    const { trail, heads } = figure.frame(at);
    const count = element.data.length;
    Plotly.restyle(element, { x: [trail.x, heads.x], y: [trail.y, heads.y], z: [trail.z, heads.z], "line.color": [trail.colours, undefined], "marker.color": [undefined, heads.colours] }, [count - 2, count - 1]);
  };
  const latest = useRef(draw);
  latest.current = draw;
  useEffect(() => { latest.current(Math.min(now.current, bins - 1)); }, [figure]);
  useEffect(() => {
    if (!isPlaying) return undefined;
    const begin = performance.now() - (now.current / bins) * PLAY_SECONDS * 1000;
    let request = 0;
    const tick = (time) => {
      const at = Math.floor((((time - begin) / 1000 / PLAY_SECONDS) % 1) * bins);
      if (at !== now.current && at >= 0) latest.current(at);
      request = requestAnimationFrame(tick);
    };
    request = requestAnimationFrame(tick);
    return () => cancelAnimationFrame(request);
  }, [isPlaying, bins]);
  const move = (to) => { setMoving(true); latest.current(to); };
  return html`<div class="row">
    ${!isCalm && html`<button type="button" onClick=${() => { setMoving(true); setPlaying(!isPlaying); }}>${isPlaying ? "Pause" : "Play along time"}</button>`}
    <label class="trial-slider"><span class="hidden">Time</span><input type="range" min="0" max=${bins - 1} value=${bin} aria-valuetext=${`${number(found.times[bin])} s`}
      onInput=${(event) => { setPlaying(false); move(Number(event.target.value)); }} /></label>
    <span class="muted">${isMoving ? `${found.times[bin].toFixed(3)} s${choice.align ? ` from ${spoken(choice.align)}` : ""}` : "whole trials"}</span>
    ${isMoving && html`<button type="button" onClick=${() => { setPlaying(false); setMoving(false); }}>Whole trials</button>`}</div>`;
}

function Controls({ owner, sessions, session, trials, choice, query }) {
  const events = choice.events.map((name) => [name, spoken(name)]);
  const metadata = metadataOf(owner, session).map(({ name }) => name);
  const colours = choice.isAveraged ? [[choice.by, spoken(choice.by)], ["time", "time"]]
    : [...metadata.map((name) => [name, spoken(name)]), ["time", "time"]];
  for (const name of behavioursOf(owner, session)) {
    const count = owner.dataArrays[named(name, session)].shape[2];
    for (let at = 0; at < count; at += 1) colours.push([`behaviour:${name}:${at}`, `${spoken(name)} ${count === 2 ? "xy"[at] : at}`]);
    if (count > 1) colours.push([`behaviour:${name}:length`, `${spoken(name)}: length of the vector`]);
  }
  const groupings = groupingsOf(owner, session).map((name) => [name, spoken(name)]);
  const isLatent = choice.array !== "rates";
  const kind = (label, value, isOn) => html`<button type="button" aria-pressed=${isOn} onClick=${() => setQuery({ trials: value })}>${label}</button>`;
  return html`<div class="row trial-controls">
    ${trials.conditionName && html`<div class="buttons" role="group" aria-label="Trials">${kind("Averaged", null, choice.isAveraged)} ${kind("Single trials", "single", !choice.isAveraged)}</div>`}
    ${sessions.length > 1 && html`<${Choice} label="Session" name="session" value=${session} options=${sessions.map((one) => [one, one + 1])} />`}
    <${Choice} label="Space" name="array" value=${choice.array} options=${choice.arrays.map((name) => [name, ARRAYS[name]])} />
    ${isLatent && html`<${Field} label="Axes" help="Principal components show most of the variance. Or give the numbers of two or three ${ARRAYS[choice.array]}, such as 0,1,4.">${(attributes) => html`<input value=${query.axes ?? ""} placeholder="principal components"
      pattern="[0-9]+,[0-9]+(,[0-9]+)?" onChange=${(event) => setQuery({ axes: event.target.value.replaceAll(" ", "") || null })} ...${attributes} />`}<//>`}
    ${choice.isAveraged && groupings.length > 1 && html`<${Choice} label="Averaged by" name="by" value=${choice.by} options=${groupings} also=${{ colour: null }} />`}
    <${Choice} label="Colour" name="colour" value=${choice.isAveraged && metadata.includes(choice.colour) ? choice.by : choice.colour} options=${colours} />
    ${events.length > 0 && html`<${Choice} label="Align to" name="align" value=${choice.align} options=${[["", "start of the trial"], ...events]} also=${{ window: null }} />`}
    ${choice.align && html`<${Field} label="Window" unit="s" help="From and to, in seconds around the event, such as -0.2:0.4.">${(attributes) => html`<input value=${choice.window.join(":")} onChange=${(event) => setQuery({ window: event.target.value })} ...${attributes} />`}<//>`}
    ${events.length > 0 && html`<${Choice} label="Epochs divided by" name="epochs" value=${query.epochs ?? ""} options=${[["", choice.align ? spoken(choice.align) : "nothing"], ...events.filter(([name]) => name !== choice.align), ...(choice.align ? [["none", "nothing"]] : [])]}
      help="Trajectories are thin before the event (preparation), and thick after it (movement)." />`}
    <${Choice} label="Part" name="split" value=${choice.split} options=${[["", "all trials"], ...distinct(trials.splits).map((one) => [one, { train: "training", valid: "validation" }[one] ?? one])]} />
    <${Filter} owner=${owner} session=${session} query=${query} />
  </div>`;
}
