// Orders of neurons: by how well they are predicted, by the time of their peak, or as they are.

import { readArray, request, useLoaded } from "../../api.js";
import { useMemo } from "../../ui.js";
import { named, readColumn } from "./owner.js";

const SAMPLE = 40;

/**
 * Load scores of single neurons: [{neuron, rate_hz, bits}].
 *
 * Bits per spike are of samples that the model reads, since held-out samples are not stored by neuron. Validation trials where
 * there are some: of an inference, all trials.
 */
export async function readNeuronScores(owner, session, signal) {
  const hasValid = !owner.inference && !owner.model.scored_on.endsWith("-refit");
  const found = await request(`${owner.path}/neurons`, { query: { array: named("rates", session), ...(hasValid ? { split: "valid" } : {}) }, signal });
  return found.neuron.map((neuron, at) => ({ neuron, rate_hz: found.rate_hz[at], bits: found.reconstruction_bits_per_spike[at] }));
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

const HELP = "“Best predicted first” orders by the information about all spikes of a neuron: bits per spike of reconstruction × its rate. So a few spikes, whose score is mostly chance, do not come first. The product stands beside each neuron, in bits/s.";
const KINDS = [["given", "as they are"], ["peak", "by the time of their peak"], ["score", "best predicted first"]];

/**
 * Return {kind, kinds, positions, labels, scores, isKnown, error, help, first}: `positions` are the neurons in their order, and
 * `labels` their numbers in the data set, by position. What an order needs is loaded when it is chosen.
 */
export function useNeuronOrder(owner, session, wished, usual = "given") {
  const rates = owner.arrays[named("rates", session)];
  const kind = KINDS.some(([name]) => name === wished) ? wished : usual;
  const coordinate = owner.arrays[named("neuron", session)];
  const names = useLoaded(() => (coordinate ? readColumn(owner.path, coordinate) : Promise.resolve(null)), [owner.path, session ?? null]);
  const keys = useLoaded((signal) => (!rates || kind === "given" ? Promise.resolve(null) : kind === "peak" ? peaksOf(owner, session, signal) : readNeuronScores(owner, session, signal)),
    [owner.path, session ?? null, kind]);
  return useMemo(() => {
    const count = rates?.shape[2] ?? 0;
    const labels = names.data ?? Array.from({ length: count }, (_, index) => index);
    const positions = Array.from({ length: count }, (_, index) => index);
    const isScore = kind === "score" && keys.data;
    const scores = isScore ? new Map(keys.data.map(({ neuron, bits }) => [neuron, bits])) : null;
    const information = isScore ? new Map(keys.data.filter(({ bits }) => Number.isFinite(bits)).map(({ neuron, bits, rate_hz: rate }) => [neuron, bits * rate])) : null;
    const key = isScore ? (at) => -(information.get(labels[at]) ?? -Infinity) : kind === "peak" && keys.data ? (at) => keys.data[at] : null;
    if (key) positions.sort((a, b) => key(a) - key(b) || a - b);
    return {
      kind, kinds: KINDS, positions, labels, scores, information, help: HELP, error: names.error ?? keys.error, first: (number) => positions.slice(0, number).map((at) => labels[at]),
      isKnown: Boolean((names.data || names.error || !names.isLoading) && (kind === "given" || keys.data || keys.error)),
    };
  }, [names.data, names.error, names.isLoading, keys.data, keys.error, kind]);
}
