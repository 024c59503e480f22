// The arrays of one trial, read once and kept, with those of its neighbours read ahead.

import { readArray } from "../../api.js";
import { useEffect, useMemo, useState } from "../../ui.js";
import { behavioursOf, named, spoken } from "./owner.js";

const KEPT = 60;

/**
 * Return what a trial can show, in the order of the panels: [{key, title, path, dim, components}].
 *
 * `dim` is the name of the axis of trials, whose labels select a trial.
 */
export function sourcesOf(owner, session) {
  const found = [];
  const add = (key, title, path, item, extra = {}) => {
    if (item && item.dims.length === 3) found.push({ key, title, path: `${path}/arrays/${item.name}`, dim: item.dims[0], components: item.shape[2], ...extra });
  };
  const data = (name) => owner.dataArrays[named(name, session)] ?? owner.dataArrays[name];
  const latents = (name) => owner.arrays[named(name, session)] ?? owner.arrays[name];
  add("spikes", "Spikes", owner.dataPath, data("spikes"));
  add("rates", "Rates", owner.path, latents("rates"));
  add("factors", "Factors", owner.path, latents("factors"));
  add("inputs", "Inferred inputs", owner.path, latents("inputs"));
  for (const name of behavioursOf(owner, session)) add(name, capital(spoken(name)), owner.dataPath, data(name), { isBehaviour: true, units: data(name).units });
  return found;
}

/** Return a text with a capital letter at its begin. */
export function capital(text) {
  return text[0].toUpperCase() + text.slice(1);
}

/** Read trials and keep the latest ones: {get(label) => promise, peek(label) => arrays | undefined}. */
function readerOf(sources) {
  const kept = new Map();
  const get = (label) => {
    if (!kept.has(label)) {
      const entry = { data: undefined };
      entry.promise = Promise.all(sources.map(({ path, dim }) => readArray(path, { [dim]: label })))
        .then((arrays) => {
          entry.data = Object.fromEntries(sources.map(({ key }, index) => [key, { shape: arrays[index].shape.slice(1), data: arrays[index].data }]));
          return entry.data;
        });
      entry.promise.catch(() => kept.delete(label));
      kept.set(label, entry);
      if (kept.size > KEPT) kept.delete(kept.keys().next().value);
    }
    return kept.get(label).promise;
  };
  return { get, peek: (label) => kept.get(label)?.data };
}

/**
 * Return {label, data, error} of a trial. The old trial stays until the new one is there.
 *
 * ahead: labels to read afterwards, since they may be next
 */
export function useTrialData(sources, label, ahead) {
  const reader = useMemo(() => readerOf(sources), [sources]);
  const [state, setState] = useState({ label: null, data: null, error: null });
  useEffect(() => {
    if (label === null || label === undefined) return undefined;
    let isGone = false;
    reader.get(label).then(
      (data) => {
        if (isGone) return;
        setState({ label, data, error: null });
        for (const other of ahead) reader.get(other).catch(() => {}); // shown, and told, when it is looked at
      },
      (error) => { if (!isGone) setState((old) => ({ ...old, error })); },
    );
    return () => { isGone = true; };
  }, [reader, label]);
  const known = label !== null && reader.peek(label);
  return known ? { label, data: known, error: null } : state; // what was read ahead is shown at once
}
