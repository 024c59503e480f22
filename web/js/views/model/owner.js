// What the tabs of a model or an inference share: its documents, its arrays, its trials.

import { ProblemError, readArray, request, useLoaded } from "../../api.js";
import { jobName } from "../../format.js";
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
 * Return {path, document, model, inference, job, jobName, dataset, dataPath, arrays, dataArrays}. `arrays` is null without latents.
 */
export async function readOwner(kind, id, signal, caller) {
  const path = `/v1/${kind}/${id}`;
  const document = await request(path, { signal });
  const inference = kind === "inferences" ? document : null;
  const model = inference ? await optional(request(`/v1/models/${inference.model_id}`, { signal })) : document;
  const isAlone = caller?.share?.kind === "model"; // a link to a model does not show its job, but the card names the data set
  const card = isAlone ? await request(document.links.card, { signal }) : null;
  const job = model && !isAlone ? await optional(request(`/v1/jobs/${model.job_id}`, { signal })) : null;
  const datasetId = inference?.dataset_id ?? job?.dataset_id ?? card?.data.dataset_id;
  const dataPath = datasetId ? `/v1/datasets/${datasetId}` : null;
  const hasLatents = inference ? inference.state === "done" : Boolean(document.links.arrays);
  const [arrays, dataset, dataArrays] = await Promise.all([
    hasLatents ? arraysOf(path, signal) : null,
    dataPath && optional(request(dataPath, { signal })),
    dataPath && optional(arraysOf(dataPath, signal)),
  ]);
  return { kind, path, document, model, inference, job, jobName: job ? jobName(job) : card?.job_name, dataset, dataPath, arrays, dataArrays: dataArrays ?? {} };
}

/** Load an owner, and load it again while it is under way. */
export function useOwner(kind, id, caller) {
  const [everyMs, setEveryMs] = useState(0);
  const loaded = useLoaded((signal) => (caller ? readOwner(kind, id, signal, caller) : Promise.resolve(null)), [kind, id, Boolean(caller)], everyMs);
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

const OF_TRIALS = /^trial(_\d+)?$/;
const NO_METADATA = /^(trial|trial_length_bins|trial_start_s|split|split_group|session)$/;
const FEW = 50; // values that a grouping may have

/** Return an array's name without the number of its session. */
function plainName(item, session) {
  return session === null || session === undefined ? item.name : item.name.replace(new RegExp(`_${session}$`), "");
}

/** Return the metadata of trials that are arrays of the data set: [{name, item}]. `name` is as in `where` and `average`. */
export function metadataOf(owner, session) {
  return Object.values(owner.dataArrays).filter((item) => item.dims.length === 1 && OF_TRIALS.test(item.dims[0]))
    .filter((item) => session === null || session === undefined || item.dims[0] === named("trial", session))
    .map((item) => ({ name: plainName(item, session), item })).filter(({ name }) => !NO_METADATA.test(name));
}

/** Return names of metadata with few values, the conditions first. Combined sessions do not report their values: integers and words count. */
export function groupingsOf(owner, session) {
  const known = owner.dataset?.report?.trial_metadata;
  const names = metadataOf(owner, session).filter(({ name, item }) => (known ? known[name]?.distinct >= 2 && known[name].distinct <= FEW : item.dtype.startsWith("int"))).map(({ name }) => name);
  const isFirst = (name) => Number(name === (owner.dataset?.report?.conditions ?? names.find((one) => /condition|target|direction|stimul/i.test(one))));
  return names.sort((a, b) => isFirst(b) - isFirst(a));
}

/** Return the name of the metadata with the conditions, or null. */
export function conditionOf(owner, session) {
  const { report } = owner.dataset ?? {};
  if (report?.trial_metadata) return metadataOf(owner, session).some(({ name }) => name === report.conditions) ? report.conditions : null;
  return groupingsOf(owner, session)[0] ?? null;
}

const NOT_EVENTS = /reaction|duration|latency|delay|interval|(^|_)rt(_|$)|speed|angle|direction|amplitude|length|index|number|count/i;

/** Return metadata that may be times of events: numbers with a fraction. */
function eventsOf(owner, session) {
  return metadataOf(owner, session).filter(({ name, item }) => item.dtype.startsWith("float") && !item.attributes?.flag_values && !NOT_EVENTS.test(name));
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
  const dataColumn = (item) => (item ? readColumn(owner.dataPath, item) : null);
  const conditionName = conditionOf(owner, session);
  const candidates = eventsOf(owner, session);
  const metadata = metadataOf(owner, session);
  const [labels, time, lengths, splits, conditions, starts, ...times] = await Promise.all([
    column(of("trial")), column(owner.arrays.time_s), column(of("trial_length_bins")), column(of("split")),
    dataColumn(metadata.find(({ name }) => name === conditionName)?.item), dataColumn(owner.dataArrays[named("trial_start_s", session)]), ...candidates.map(({ item }) => dataColumn(item)),
  ]);
  const all = labels ?? Array.from({ length: of("rates")?.shape[0] ?? of("factors").shape[0] }, (_, index) => index);
  const first = session ? all[0] : 0; // metadata of a session begin with its first trial
  const pick = (values) => values && all.map((label) => values[label - first] ?? null);
  const ofAll = (item, values) => (values && session !== null && item.dims[0] === "trial" ? all.map((label) => values[label]) : values);
  const width = binWidthOf(owner);
  const span = [time[0], time[time.length - 1] + width];
  const events = {};
  candidates.forEach(({ name }, index) => {
    const values = pick(onTrialClock(times[index], starts, span));
    const known = values.filter((value) => value !== null);
    const inside = known.filter((value) => value >= span[0] && value <= span[1]);
    if (known.length > 0 && inside.length >= known.length / 2) events[name] = values;
  });
  return { labels: all, time, width, span, lengths: ofAll(of("trial_length_bins"), lengths), splits: ofAll(of("split"), splits), conditionName, conditions: pick(conditions), events };
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

const NO_BEHAVIOUR = /^(spikes|true_rates_hz|true_latents|true_inputs|external_inputs|missing)$/;

/** Return the names of the behaviour arrays of the data set, trials × bins × components, without the number of the session. */
export function behavioursOf(owner, session) {
  return Object.values(owner.dataArrays).filter((item) => item.dims.length === 3 && item.dims[1] === "time_s" && item.dims[0] === named("trial", session))
    .map((item) => plainName(item, session)).filter((name) => !NO_BEHAVIOUR.test(name));
}

const SAMPLE = 8;

/** Return the names of behaviours that do not vary, judged by a sample of trials: a Set, or null until it is known. */
export function useConstants(owner, session, trials) {
  const labels = Array.from({ length: Math.min(SAMPLE, trials?.labels.length ?? 0) }, (_, at) => trials.labels[Math.floor((at * trials.labels.length) / Math.min(SAMPLE, trials.labels.length))]);
  const { data, error } = useLoaded(async (signal) => {
    if (!trials) return null;
    const found = await Promise.all(behavioursOf(owner, session).map(async (name) => {
      const item = owner.dataArrays[named(name, session)];
      return [name, isConstant(await readArray(`${owner.dataPath}/arrays/${item.name}`, { [item.dims[0]]: labels.join(",") }, signal))];
    }));
    return new Set(found.filter(([, isOne]) => isOne).map(([name]) => name));
  }, [owner.path, session ?? null, Boolean(trials)]);
  return useMemo(() => data ?? (error ? new Set() : null), [data, error]);
}

/** Return whether no component of an array (trials × bins × components) varies. */
function isConstant({ shape, data }) {
  const count = shape.at(-1);
  const [low, high] = [new Float64Array(count).fill(Infinity), new Float64Array(count).fill(-Infinity)];
  data.forEach((value, at) => {
    if (value < low[at % count]) low[at % count] = value;
    if (value > high[at % count]) high[at % count] = value;
  });
  return low.every((value, at) => !(high[at] - value > 1e-6 * Math.max(Math.abs(value), Math.abs(high[at]))));
}

export function useSession(owner, query) {
  const sessions = useMemo(() => sessionsOf(owner), [owner]);
  const wished = query.session === undefined ? sessions[0] : Number(query.session);
  return { sessions, session: sessions.includes(wished) ? wished : sessions[0] };
}
