// The numbers of trajectories: which trials, from which event, in which space.

import { readArray, request, useLoaded } from "../../api.js";
import { named } from "./owner.js";

const MOST_TRIALS = 500;
const MOST_BINS = 500;
const MOST_POINTS_WITH_VARIANCE = 60000; // of single trials: JSON tells the explained variance, too, but it is larger

/** Return the parameters that select and transform an array of latents, but for the trials. */
function shapeOf(trials, choice) {
  const bins = choice.align ? Math.round((choice.window[1] - choice.window[0]) / trials.width) : trials.time.length;
  const wider = Math.ceil(bins / MOST_BINS);
  return {
    ...(choice.align ? { align_to: choice.align, window_s: choice.window.join(":") } : {}),
    ...(wider > 1 ? { rebin_s: wider * trials.width } : {}),
    ...(choice.smooth ? { smooth_s: choice.smooth } : {}),
  };
}

/** Return the centres of the bins after alignment and rebinning. */
function timesOf(trials, choice, bins) {
  const whole = choice.align ? Math.round((choice.window[1] - choice.window[0]) / trials.width) : trials.time.length;
  const step = Math.ceil(whole / MOST_BINS) * trials.width;
  const first = choice.align ? Math.ceil(choice.window[0] / trials.width - 1e-6) * trials.width : trials.time[0];
  return Array.from({ length: bins }, (_, bin) => first + (bin + 0.5) * step);
}

/** Latents of several sessions share an axis of trials: then the session is a condition, too. */
function filterOf({ split, where }, item, session) {
  const conditions = [...(where ? [where] : []), ...(session !== null && item.dims[0] === "trial" ? [`session:eq:${session}`] : [])];
  return { ...(split ? { split } : {}), ...(conditions.length ? { where: conditions } : {}) };
}

/** Return at most `most` entries, evenly spaced. */
function spaced(items, most) {
  return items.length <= most ? items : Array.from({ length: most }, (_, index) => items[Math.floor((index * items.length) / most)]);
}

/** Return the parameters for the space: principal components, or chosen entries of the last axis. */
function spaceOf(item, choice) {
  const dim = item.dims[2];
  if (choice.axes && !/^(neuron|component)/.test(dim)) return { [dim]: choice.axes };
  return { components: Math.min(3, item.shape[2]) };
}

/**
 * Load trajectories.
 *
 * choice: {array, isAveraged, by, align, window, split, where, axes, smooth, behaviour}
 * Return {rows, times, shape, data, colours, path, query, attributes, of, total}: `rows` has {label, value, count} for each
 * trajectory, `data` their coordinates (rows × bins × dimensions), `colours` the values of a behaviour (rows × bins) or null,
 * `total` the number of trials that fit.
 */
export function useTrajectories(owner, session, trials, choice) {
  return useLoaded((signal) => (choice.isAveraged ? readAveraged : readSingle)(owner, session, trials, choice, signal), [owner.path, session ?? null, choice]);
}

async function readAveraged(owner, session, trials, choice, signal) {
  const item = owner.arrays[named(choice.array, session)] ?? owner.arrays[choice.array];
  const path = `${owner.path}/arrays/${item.name}`;
  const shared = { ...filterOf(choice, item, session), ...shapeOf(trials, choice), average: choice.by };
  const query = { ...shared, ...spaceOf(item, choice) };
  const [found, behaviour] = await Promise.all([
    request(path, { query: { ...query, format: "json" }, signal }),
    choice.behaviour && request(`${owner.dataPath}/arrays/${choice.behaviour.name}`, { query: { ...shared, split: undefined, where: choice.where, format: "json" }, signal }),
  ]);
  const coordinate = found.coordinates[found.dims[0]];
  const values = withMeanings(coordinate);
  const counts = found.coordinates.trials.values;
  const rows = values.map((value, index) => ({ value, count: counts[index] }));
  const few = stopWhereFew(found, counts);
  const total = counts.reduce((sum, count) => sum + count, 0);
  const colours = behaviour ? flat(behaviour).data : null;
  return { rows, ...flat(found), times: centred(found.coordinates[found.dims[1]].values, trials.width), colours: colours && reduced(behaviour.shape, colours, choice.behaviour), path, query, attributes: found.attributes, total, drawn: total, few };
}

/**
 * Trials differ in length, so late bins of an average may be of few of them. Make the bins empty that fewer than half of the
 * condition's trials have, also of what stands beside the average. Return words about it, or null where nothing was left out.
 */
export function stopWhereFew({ values, beside }, trials) {
  const counts = beside.find(({ name }) => name.endsWith("_count"))?.values;
  let [stopped, fewest] = [0, null];
  counts?.forEach((bins, row) => {
    let isStopped = false;
    bins.forEach((ofFeatures, bin) => ofFeatures.forEach((count, feature) => {
      if (count === 0 || 2 * count >= trials[row]) return;
      for (const one of [{ values }, ...beside]) if (one.values !== counts && one.values[row][bin].length === ofFeatures.length) one.values[row][bin][feature] = null;
      isStopped = true;
      if (!fewest || count / trials[row] < fewest[0] / fewest[1]) fewest = [count, trials[row]];
    }));
    stopped += Number(isStopped);
  });
  return stopped ? `${stopped} of ${counts.length} conditions: without bins that fewer than half of their trials have (fewest ${fewest[0]} of ${fewest[1]})` : null;
}

/** Return the centres of bins, of whose starts the API tells. */
function centred(starts, width) {
  const step = starts.length > 1 ? starts[1] - starts[0] : width;
  return starts.map((start) => start + step / 2);
}

function withMeanings({ values, attributes }) {
  if (!attributes?.flag_values) return values;
  const words = String(attributes.flag_meanings).split(" ");
  return values.map((code) => words[attributes.flag_values.indexOf(code)] ?? code);
}

function flat({ shape, values }) {
  return { shape, data: Float64Array.from(values.flat(Infinity), (value) => value ?? NaN) };
}

async function readSingle(owner, session, trials, choice, signal) {
  const item = owner.arrays[named(choice.array, session)] ?? owner.arrays[choice.array];
  const path = `${owner.path}/arrays/${item.name}`;
  const labels = choice.where || choice.split
    ? Array.from((await readArray(`${owner.path}/arrays/${item.dims[0]}`, filterOf(choice, item, session), signal)).data) : trials.labels;
  if (labels.length === 0) return { rows: [], total: 0, drawn: 0 };
  const chosen = spaced(labels, MOST_TRIALS);
  const shared = { ...shapeOf(trials, choice), ...(chosen.length < item.shape[0] ? { [item.dims[0]]: chosen.join(",") } : {}) };
  const query = { ...shared, ...spaceOf(item, choice) };
  const isSmall = chosen.length * Math.min(trials.time.length, MOST_BINS) <= MOST_POINTS_WITH_VARIANCE;
  const [found, behaviour] = await Promise.all([
    isSmall ? request(path, { query: { ...query, format: "json" }, signal }).then((document) => ({ ...flat(document), attributes: document.attributes })) : readArray(path, query, signal),
    choice.behaviour && readArray(`${owner.dataPath}/arrays/${choice.behaviour.name}`, { ...shapeOf(trials, choice), [named("trial", session)]: chosen.join(",") }, signal),
  ]);
  const position = new Map(trials.labels.map((label, index) => [label, index]));
  const rows = chosen.map((label) => ({ label, index: position.get(label) }));
  return {
    rows, ...found, times: timesOf(trials, choice, found.shape[1]), path, query, attributes: found.attributes ?? {},
    colours: behaviour && reduced(behaviour.shape, behaviour.data, choice.behaviour), total: labels.length, drawn: chosen.length,
  };
}

/** Return one number for each trajectory and bin: a component of the behaviour, or its length. */
function reduced([rows, bins, components], data, { component }) {
  const found = new Float64Array(rows * bins);
  for (let at = 0; at < rows * bins; at += 1) {
    if (component !== "length") found[at] = data[at * components + component];
    else found[at] = Math.hypot(...data.subarray(at * components, (at + 1) * components));
  }
  return found;
}
