// Requests to /v1, with the key of the session, the server's problems as errors, and news whether the server answers.

import { useCallback, useEffect, useRef, useState } from "../vendor/hooks.js";
import { parseNpy } from "./npy.js";

const KEY = "latentry.key";

/** What the shell watches: whether the server answers, whether a key is needed, and numbers that change when all should be
 * read again, and with each key. */
export const connection = { isOnline: true, needsKey: false, generation: 0, keys: 0 };
const listeners = new Set();

function change(changes) {
  Object.assign(connection, changes);
  for (const listener of listeners) listener({ ...connection });
}

export function useConnection() {
  const [state, setState] = useState({ ...connection });
  useEffect(() => {
    listeners.add(setState);
    return () => listeners.delete(setState);
  }, []);
  return state;
}

let scopes = null; // of the caller, once they are known

/** Keep what the caller may do, for `ifMay`. */
export function setScopes(found) {
  scopes = found;
}

/** Return the attributes of a button that changes something: none, or those that disable it and say which permission is missing. */
export function ifMay(scope = "write") {
  return scopes && !scopes.includes(scope) ? { disabled: true, title: `Your key lacks the permission “${scope}”. Ask the person who runs the service for a key that has it.` } : {};
}

/** An error of the server, with its problem document (RFC 9457). */
export class ProblemError extends Error {
  constructor(problem, status, path) {
    super(problem.title ?? problem.detail ?? `The server answered ${status}.`);
    Object.assign(this, { problem, status, path });
  }
}

export function getKey() {
  return sessionStorage.getItem(KEY) ?? "";
}

/** Whether the tab holds the token of a shared link, which shows one object only. */
export const hasShareToken = () => getKey().startsWith("ltshare_");

/** Keep a key or the token of a share until the tab is closed, and read everything again. */
export function setKey(key) {
  if (key) sessionStorage.setItem(KEY, key);
  else sessionStorage.removeItem(KEY);
  change({ needsKey: false, keys: connection.keys + 1 });
}

/** Return the URL of a path such as `/v1/jobs`, also where the service has a path of its own behind a proxy. */
export function urlOf(path, query = {}) {
  const url = new URL(path.replace(/^\//, ""), document.baseURI);
  url.hash = "";
  for (const [name, value] of Object.entries(query)) {
    if (value === null || value === undefined || value === "") continue;
    for (const item of [value].flat()) url.searchParams.append(name, item);
  }
  return url.href;
}

function headersOf(options) {
  const key = getKey();
  return { ...(key ? { Authorization: `Bearer ${key}` } : {}), ...(options.json === undefined ? {} : { "Content-Type": "application/json" }), ...options.headers };
}

/**
 * Return a successful response.
 *
 * options: those of `fetch`, and `query`, `json` (a body)
 * throws: ProblemError, or TypeError where the server cannot be reached
 */
export async function fetchOk(path, options = {}) {
  const { query, json, ...rest } = options;
  const key = getKey();
  let response;
  try {
    response = await fetch(urlOf(path, query), {
      ...rest, headers: headersOf(options), credentials: "same-origin", body: json === undefined ? rest.body : JSON.stringify(json),
    });
  } catch (error) {
    if (error.name !== "AbortError") waitForServer();
    throw error;
  }
  if (response.ok) return response;
  const problem = await response.json().catch(() => ({ title: `The server answered ${response.status}.`, detail: response.statusText }));
  const isOfTab = !options.headers?.Authorization && !options.signal?.aborted && key === getKey(); // not another key that is tried or was dropped
  if (response.status === 401 && isOfTab) change({ needsKey: true });
  throw new ProblemError(problem, response.status, path);
}

/** Return the JSON document of a response. */
export async function request(path, options) {
  const response = await fetchOk(path, options);
  return response.status === 204 ? null : response.json();
}

/** Return an array of numbers: {shape, data}. */
export async function readArray(path, query, signal) {
  const response = await fetchOk(path, { query: { ...query, format: "npy" }, signal });
  return parseNpy(await response.arrayBuffer());
}

/** Return all items of a list, page by page, at most `most` of them: {items, isComplete}. */
export async function readAll(path, { query = {}, signal, most = 1000 } = {}) {
  const items = [];
  let token = "";
  do {
    const page = await request(path, { query: { ...query, page_size: Math.min(200, most), page_token: token }, signal });
    items.push(...page.items);
    token = page.next_page_token;
  } while (token && items.length < most);
  return { items, isComplete: !token };
}

let waiting = null;

/** The server does not answer: ask every few seconds, then let every view read its data again. */
function waitForServer() {
  if (waiting) return;
  change({ isOnline: false });
  waiting = setInterval(async () => {
    const isBack = await fetch(urlOf("/healthz"), { cache: "no-store" }).then((response) => response.ok, () => false);
    if (!isBack) return;
    clearInterval(waiting);
    waiting = null;
    change({ isOnline: true, generation: connection.generation + 1 });
  }, 2000);
}

/**
 * Load something, and load it again when its dependencies change, every `everyMs`, or on `reload()`. Old data stay until new ones come;
 * a view is made anew for another path or key, so it never shows those of another object.
 *
 * load: signal => promise; dependencies: list of plain values; everyMs: number, or 0
 */
export function useLoaded(load, dependencies, everyMs = 0) {
  const { generation } = useConnection();
  const [state, setState] = useState({ data: null, error: null, isLoading: true });
  const [wish, setWish] = useState(0);
  const key = JSON.stringify([dependencies, generation]);
  useEffect(() => {
    const controller = new AbortController();
    setState((old) => ({ ...old, isLoading: true }));
    load(controller.signal).then(
      (data) => { if (!controller.signal.aborted) setState({ data, error: null, isLoading: false }); },
      (error) => { if (!controller.signal.aborted) setState((old) => ({ data: old.data, error, isLoading: false })); },
    );
    return () => controller.abort();
  }, [key, wish]);
  const reload = useCallback(() => setWish((number) => number + 1), []);
  useEffect(() => {
    if (!everyMs) return undefined;
    const timer = setInterval(() => { if (!document.hidden) reload(); }, everyMs);
    return () => clearInterval(timer);
  }, [everyMs]);
  return { ...state, reload };
}

/** Load a JSON document. `path` may be null: then nothing is loaded. */
export function useDocument(path, { query, everyMs } = {}) {
  return useLoaded((signal) => (path ? request(path, { query, signal }) : Promise.resolve(null)), [path, query], everyMs);
}

/**
 * Follow the events of a job. An `EventSource` cannot send a key, so this reads the stream by `fetch`.
 *
 * onEvent: ({ id, event, data }) => void; called for each event. Reconnects with `Last-Event-ID` until the stream ends.
 */
export function useEvents(path, onEvent) {
  const handler = useRef(onEvent);
  handler.current = onEvent;
  useEffect(() => {
    if (!path) return undefined;
    const controller = new AbortController();
    follow(path, controller.signal, (event) => handler.current(event));
    return () => controller.abort();
  }, [path]);
}

async function follow(path, signal, onEvent) {
  let last = "";
  let delay = 1000;
  while (!signal.aborted) {
    try {
      const response = await fetchOk(path, { signal, headers: { Accept: "text/event-stream", ...(last ? { "Last-Event-ID": last } : {}) } });
      for await (const event of readEvents(response.body)) {
        if (event.id) last = event.id;
        delay = 1000;
        onEvent(event);
      }
      return; // the server ends the stream when the job has ended
    } catch (error) {
      if (signal.aborted || (error instanceof ProblemError && error.status < 500 && error.status !== 429)) return;
    }
    await new Promise((resolve) => { setTimeout(resolve, delay); });
    delay = Math.min(30000, 2 * delay);
  }
}

async function* readEvents(body) {
  let text = "";
  const decoder = new TextDecoder();
  for await (const bytes of streamOf(body)) {
    text += decoder.decode(bytes, { stream: true });
    const blocks = text.split(/\r?\n\r?\n/);
    text = blocks.pop();
    for (const block of blocks) {
      const event = { id: "", event: "message", data: "" };
      for (const line of block.split(/\r?\n/)) {
        const [, name, value] = /^(\w+): ?(.*)$/.exec(line) ?? [];
        if (name === "data") event.data += (event.data ? "\n" : "") + value;
        else if (name) event[name] = value;
      }
      if (event.data) yield { ...event, data: JSON.parse(event.data) };
    }
  }
}

async function* streamOf(body) {
  const reader = body.getReader(); // Safari has no asynchronous iteration of streams
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    yield value;
  }
}

/** Save a response as a file, with the key that a plain link could not send. */
export async function download(path, query, name) {
  const response = await fetchOk(path, { query });
  saveBlob(await response.blob(), name ?? fileNameOf(response) ?? path.split("/").pop());
}

export function saveBlob(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
}

function fileNameOf(response) {
  return /filename="?([^";]+)"?/.exec(response.headers.get("Content-Disposition") ?? "")?.[1];
}
