// What the tabs of a model or an inference share: its documents, its arrays, its trials.

import { ProblemError, readArray, request, useLoaded } from "../../api.js";
import { useEffect, useMemo, useState } from "../../ui.js";

const ENDED = ["done", "failed", "cancelled", "trained", "stopped", "diverged"];

/** Return null where a document may not be read, for example by a share link. */
function optional(promise) {
  return promise.catch((error) => {
    if (error instanceof ProblemError && error.status < 500) return null;
    throw error;
  });
}

async function arraysOf(path, signal) {
  const { items } = await request(`${path}/arrays`, { signal });
  return Object.fromEntries(items.map((item) => [item.name, item]));
}

/**
 * Load a model or an inference with its job, its data set, and the lists of arrays of both.
 *
 * Return {path, document, model, inference, job, dataset, dataPath, arrays, dataArrays}. `arrays` is null without latents.
 */
export async function readOwner(kind, id, signal) {
  const path = `/v1/${kind}/${id}`;
  const document = await request(path, { signal });
  const inference = kind === "inferences" ? document : null;
  const model = inference ? await optional(request(`/v1/models/${inference.model_id}`, { signal })) : document;
  const job = model && await optional(request(`/v1/jobs/${model.job_id}`, { signal }));
  const datasetId = inference?.dataset_id ?? job?.dataset_id;
  const dataPath = datasetId ? `/v1/datasets/${datasetId}` : null;
  const hasLatents = inference ? inference.state === "done" : Boolean(document.links.arrays);
  const [arrays, dataset, dataArrays] = await Promise.all([
    hasLatents ? arraysOf(path, signal) : null,
    dataPath && optional(request(dataPath, { signal })),
    dataPath && optional(arraysOf(dataPath, signal)),
  ]);
  return { kind, path, document, model, inference, job, dataset, dataPath, arrays, dataArrays: dataArrays ?? {} };
}

/** Load an owner, and load it again while it is under way. */
export function useOwner(kind, id) {
  const [everyMs, setEveryMs] = useState(0);
  const loaded = useLoaded((signal) => readOwner(kind, id, signal), [kind, id], everyMs);
  const { data } = loaded;
  useEffect(() => {
    if (!data) return;
    const isWaiting = !data.arrays && !(ENDED.includes(data.document.state) && ENDED.includes(data.job?.state ?? "done"));
    setEveryMs(isWaiting ? 4000 : 0);
  }, [data]);
  return loaded;
}

/** Return the sessions of an owner: [null], or [0, 1, …] where each session has rates of its own. */
export function sessionsOf(owner) {
  const numbers = Object.keys(owner.arrays ?? {}).map((name) => /^rates_(\d+)$/.exec(name)?.[1]).filter(Boolean).map(Number);
  return numbers.length && !owner.arrays.rates ? numbers.sort((a, b) => a - b) : [null];
}

/** Return the name of an array in a session. */
export function named(name, session) {
  return session === null || session === undefined ? name : `${name}_${session}`;
}

/** Return the bin width in seconds. */
export function binWidthOf(owner) {
  return owner.dataset?.bin_width_s ?? 0.02;
}

const small = new Map();

/** Read a small array once (coordinates, metadata of trials). Arrays of metadata have a value or null for each trial. */
export function readColumn(path, item) {
  const key = `${path}/arrays/${item.name}`;
  if (!small.has(key)) {
    const promise = readArray(key, {}).then(({ data }) => valuesOf(data, item.attributes ?? {}));
    promise.catch(() => small.delete(key));
    small.set(key, promise);
  }
  return small.get(key);
}

function valuesOf(data, { flag_values: codes, flag_meanings: meanings }) {
  if (!codes) return Array.from(data, (value) => (Number.isNaN(value) ? null : value));
  const words = typeof meanings === "string" ? meanings.split(" ") : meanings;
  const wordOf = new Map([codes].flat().map((code, index) => [code, words[index]]));
  return Array.from(data, (code) => wordOf.get(code) ?? null);
}

/** Return the metadata of trials that are arrays of the data set: [{name, dtype, attributes}]. */
export function metadataOf(owner) {
  const dims = /^trial(_\d+)?$/;
  return Object.values(owner.dataArrays).filter((item) => item.dims.length === 1 && dims.test(item.dims[0])
    && !dims.test(item.name) && !/^(trial_length_bins|trial_start_s|split|split_group|session)(_\d+)?$/.test(item.name));
}

/** Return the name of the metadata with the conditions, or null. */
export function conditionOf(owner) {
  const name = owner.dataset?.report?.conditions;
  return name && owner.dataArrays[name] ? name : null;
}

const NOT_EVENTS = /reaction|duration|latency|delay|interval|(^|_)rt(_|$)|speed|angle|direction|amplitude|length|index|number|count/i;

/** Return metadata that may be times of events: numbers with a fraction, mostly within the trials. */
export function eventNamesOf(owner) {
  return metadataOf(owner).filter((item) => item.dtype.startsWith("float") && !NOT_EVENTS.test(item.name)
    && owner.dataset?.report?.trial_metadata?.[item.name]?.kind === "number").map((item) => item.name);
}

/** Return the times of an event on the time axis of the trials. Recordings with a clock of the session may give either. */
export function onTrialClock(times, starts, span) {
  if (!starts) return times;
  const moved = times.map((time, trial) => (time === null ? null : time - starts[trial]));
  const inside = (values) => values.filter((value) => value !== null && value >= span[0] && value <= span[1]).length;
  return inside(moved) > inside(times) ? moved : times;
}

/**
 * Load what describes the trials of a session.
 *
 * Return {labels, time, lengths, conditions, conditionName, events, splits}: lists with one entry for each trial of the
 * latents, `time` in seconds (starts of bins), and `events` as {name: [time | null, …]}.
 */
export function useTrials(owner, session) {
  return useLoaded(() => readTrials(owner, session), [owner.path, session ?? null]);
}

async function readTrials(owner, session) {
  const of = (name) => owner.arrays[named(name, session)] ?? owner.arrays[name];
  const column = (item) => (item ? readColumn(owner.path, item) : null);
  const dataColumn = (name) => (owner.dataArrays[name] ? readColumn(owner.dataPath, owner.dataArrays[name]) : null);
  const conditionName = conditionOf(owner);
  const names = eventNamesOf(owner);
  const [labels, time, lengths, splits, conditions, starts, ...times] = await Promise.all([
    column(of("trial")), column(owner.arrays.time_s), column(of("trial_length_bins")), column(of("split")),
    conditionName && dataColumn(conditionName), dataColumn("trial_start_s"), ...names.map(dataColumn),
  ]);
  const all = labels ?? Array.from({ length: of("rates")?.shape[0] ?? of("factors").shape[0] }, (_, index) => index);
  const pick = (values) => values && all.map((label) => values[label] ?? null);
  const width = binWidthOf(owner);
  const span = [time[0], time[time.length - 1] + width];
  const events = {};
  names.forEach((name, index) => {
    const values = pick(onTrialClock(times[index], starts, span));
    const known = values.filter((value) => value !== null);
    const inside = known.filter((value) => value >= span[0] && value <= span[1]);
    if (known.length > 0 && inside.length >= known.length / 2) events[name] = values;
  });
  return { labels: all, time, width, span, lengths, splits, conditionName, conditions: pick(conditions), events };
}

/** Return the distinct values of a list in rising order, numbers before text, as the server orders conditions. */
export function distinct(values) {
  return [...new Set((values ?? []).filter((value) => value !== null && value !== undefined))]
    .sort((a, b) => (typeof a === typeof b ? (a < b ? -1 : Number(a > b)) : typeof a === "number" ? -1 : 1));
}

/** Return names with spaces: "move_onset" → "move onset". */
export function spoken(name) {
  return String(name).replaceAll("_", " ");
}

/** Return the behaviour arrays of the data set: trials × bins × components. */
export function behavioursOf(owner) {
  const known = Object.keys(owner.dataset?.report?.behaviour ?? {});
  return known.filter((name) => owner.dataArrays[name]?.dims.length === 3);
}

export function useSession(owner, query) {
  const sessions = useMemo(() => sessionsOf(owner), [owner]);
  const wished = query.session === undefined ? sessions[0] : Number(query.session);
  return { sessions, session: sessions.includes(wished) ? wished : sessions[0] };
}
