// The state of a search that one edits: what differs from the preset, what the server makes of it, and what it says about each field.

import { useEffect, useMemo, useRef, useState } from "../../ui.js";
import { request, useLoaded } from "../../api.js";
import { withLabels } from "../job/words.js";

const DEBOUNCE_MS = 400;

export function getAt(document, path) {
  return path.reduce((part, name) => part?.[name], document);
}

/** Return a document with another value at a path. `undefined` removes the field, and parts that are then empty. */
export function withAt(document, [name, ...rest], value) {
  const result = { ...document };
  const next = rest.length ? withAt(document?.[name] ?? {}, rest, value) : value;
  if (next === undefined || (rest.length && Object.keys(next).length === 0)) delete result[name];
  else result[name] = next;
  return result;
}

function isEqual(a, b) {
  return JSON.stringify(a) === JSON.stringify(b);
}

const SECTIONS = ["strategy", "architecture", "space", "training", "budget", "inference"];

/** Return the fields of a specification that differ from another one. */
export function differences(specification, defaults) {
  const result = {};
  for (const [name, value] of Object.entries(specification)) {
    if (["dataset_id", "preset"].includes(name) || isEqual(value, defaults[name])) continue;
    const isOtherStrategy = name === "strategy" && value.kind !== defaults.strategy.kind;
    if (!SECTIONS.includes(name) || isOtherStrategy) result[name] = value;
    else {
      result[name] = Object.fromEntries(Object.entries(value).filter(([key, item]) => !isEqual(item, defaults[name][key])));
      if (name === "strategy") result[name].kind = value.kind;
    }
  }
  return result;
}

export function preview(specification, signal) {
  return request("/v1/jobs", { method: "POST", query: { validate_only: true }, json: specification, signal });
}

/** Ask the server what a search would do, some time after the last change. { preview, error, isChecking }: the last valid one stays. */
export function usePreview(specification) {
  const [state, setState] = useState({ preview: null, error: null, isChecking: true });
  const key = specification && JSON.stringify(specification);
  const isFirst = useRef(true);
  useEffect(() => {
    if (!key) return undefined;
    const controller = new AbortController();
    setState((old) => ({ ...old, isChecking: true }));
    const timer = setTimeout(() => {
      isFirst.current = false;
      preview(specification, controller.signal).then(
        (found) => setState({ preview: found, error: null, isChecking: false }),
        (error) => { if (!controller.signal.aborted) setState((old) => ({ ...old, error, isChecking: false })); },
      );
    }, isFirst.current ? 0 : DEBOUNCE_MS);
    return () => { clearTimeout(timer); controller.abort(); };
  }, [key]);
  return state;
}

const EDITS = "latentry.search ";

/** Return [given, setGiven], which the tab keeps until the search starts, also when the page is loaded again. */
export function useEdits(subject, template) {
  const name = EDITS + subject;
  const [given, setGiven] = useState(() => JSON.parse(sessionStorage.getItem(name)) ?? template);
  const change = useMemo(() => (changed) => setGiven((before) => {
    const next = typeof changed === "function" ? changed(before) : changed;
    if (isEqual(next, template)) sessionStorage.removeItem(name);
    else sessionStorage.setItem(name, JSON.stringify(next)); // at once: the page may be closed before it is drawn
    return next;
  }), [name]);
  return [given, change];
}

/** Forget the edits of all searches on a data set: one has started. */
export function forgetEdits(datasetId) {
  for (const name of Object.keys(sessionStorage)) if (name.startsWith(EDITS) && name.endsWith(` ${datasetId}`)) sessionStorage.removeItem(name);
}

/** Load what another job changed against its preset. Returns { given, preset } or null while it loads. */
export function useTemplate(jobId, datasetId) {
  return useLoaded(async (signal) => {
    if (!jobId) return { given: {}, preset: undefined };
    const job = await request(`/v1/jobs/${jobId}`, { signal });
    const { specification } = job;
    const { preset } = specification;
    const { specification: defaults } = await preview({ dataset_id: datasetId ?? specification.dataset_id, preset }, signal);
    const given = differences(specification, defaults);
    if (given.name) given.name = `${given.name}, again`.slice(0, 200);
    return { given, preset, datasetId: specification.dataset_id, from: job };
  }, [jobId, datasetId]);
}

/**
 * Sort errors and warnings by field. A warning names its fields, such as `budget.epochs`; the first is the one to change.
 *
 * Returns { errorsAt: path => [text], warningsAt: path => [text], others: [text] }
 */
export function useMessages(found, error) {
  return useMemo(() => {
    const errors = (error?.problem?.errors ?? []).map((item) => ({ pointer: item.pointer.split("/").slice(1), text: [item.message, item.hint].filter(Boolean).join(". ") }));
    const warnings = (found?.warnings ?? []).map((text) => ({ text, field: /\b(?:budget|training|space|strategy|architecture|inference)\.\w+/.exec(text)?.[0] }));
    const startsWith = (pointer, path) => path.every((name, index) => pointer[index] === name)
      || (pointer[0] === "strategy" && path[0] === "strategy" && path[1] === pointer[2]); // the second part may be the kind
    return {
      errorsAt: (path) => errors.filter(({ pointer }) => startsWith(pointer, path)).map(({ text }) => text),
      warningsAt: (path) => warnings.filter(({ field }) => field === path.join(".")).map(({ text }) => withLabels(text)),
      warnings: warnings.map(({ text }) => withLabels(text)),
    };
  }, [found, error]);
}
