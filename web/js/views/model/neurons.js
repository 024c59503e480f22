// Orders of neurons: by how well they are predicted, by the time of their peak, or as they are.

import { readArray, request, useLoaded, ProblemError } from "../../api.js";
import { useMemo } from "../../ui.js";
import { named, readColumn } from "./owner.js";

const SAMPLE = 40;

/** Return the scores of single neurons: [{neuron, session, …}], or null where the service has none. */
export async function readNeuronScores(owner, signal) {
  if (!owner.document.links.neurons) return null;
  try {
    const found = await request(`${owner.path}/neurons`, { signal });
    return found.items ?? found.neurons ?? null;
  } catch (error) {
    if (error instanceof ProblemError && error.status < 500) return null;
    throw error;
  }
}

/** Return the bin of each neuron's highest mean rate, over a sample of the trials. */
async function peaksOf(owner, session, signal) {
  const rates = owner.arrays[named("rates", session)];
  const step = Math.max(1, Math.floor(rates.shape[0] / SAMPLE));
  const { shape: [groups, bins, neurons], data } = await readArray(`${owner.path}/arrays/${rates.name}`, { slice: `::${step}`, average: "split" }, signal);
  const best = new Float64Array(neurons).fill(-Infinity);
  const peaks = new Float64Array(neurons);
  for (let group = 0; group < groups; group += 1) {
    for (let bin = 0; bin < bins; bin += 1) {
      for (let neuron = 0; neuron < neurons; neuron += 1) {
        const value = data[(group * bins + bin) * neurons + neuron];
        if (value > best[neuron]) { best[neuron] = value; peaks[neuron] = bin; }
      }
    }
  }
  return peaks;
}

const HELP = "Well predicted neurons come first if you order by bits per spike: held-out samples of validation trials, against the mean of the neuron.";

/**
 * Return {kind, kinds, positions, labels, isKnown, help, first}: `positions` are the neurons in their order, and `labels` their
 * numbers in the data set, by position.
 */
export function useNeuronOrder(owner, session, wished) {
  const rates = owner.arrays[named("rates", session)];
  const count = rates?.shape[2] ?? 0;
  const loaded = useLoaded(async (signal) => {
    const coordinate = owner.arrays[named("neuron", session)];
    const [labels, scores] = await Promise.all([coordinate ? readColumn(owner.path, coordinate) : null, readNeuronScores(owner, signal)]);
    return { labels: labels ?? Array.from({ length: count }, (_, index) => index), scores };
  }, [owner.path, session ?? null]);
  const scores = scoresBy(loaded.data, session);
  const kind = wished ?? (scores ? "score" : "given");
  const peaks = useLoaded((signal) => (kind === "peak" && rates ? peaksOf(owner, session, signal) : Promise.resolve(null)), [owner.path, session ?? null, kind === "peak"]);
  return useMemo(() => {
    const labels = loaded.data?.labels ?? Array.from({ length: count }, (_, index) => index);
    const positions = Array.from({ length: count }, (_, index) => index);
    const key = kind === "score" && scores ? (at) => -(scores.get(labels[at]) ?? -Infinity) : kind === "peak" && peaks.data ? (at) => peaks.data[at] : null;
    if (key) positions.sort((a, b) => key(a) - key(b) || a - b);
    const kinds = [["given", "as they are"], ["peak", "by the time of their peak"], ...(scores ? [["score", "best predicted first"]] : [])];
    return {
      kind: kinds.some(([name]) => name === kind) ? kind : "given", kinds, positions, labels, help: HELP, scores,
      isKnown: Boolean(loaded.data || loaded.error), first: (number) => positions.slice(0, number).map((at) => labels[at]),
    };
  }, [loaded.data, loaded.error, peaks.data, kind, scores]);
}

const byData = new WeakMap();

/** Return bits per spike by the number of the neuron, or null. */
function scoresBy(data, session) {
  if (!data?.scores?.length) return null;
  if (!byData.has(data)) byData.set(data, new Map());
  const cache = byData.get(data);
  const key = session ?? 0;
  if (!cache.has(key)) {
    const items = data.scores.filter((item) => (item.session ?? 0) === key);
    cache.set(key, new Map(items.map((item) => [item.neuron, item.sv_bits_per_spike_valid ?? item.bits_per_spike]).filter(([, value]) => Number.isFinite(value))));
  }
  return cache.get(key).size ? cache.get(key) : null;
}
