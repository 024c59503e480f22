// Resumable uploads (tus 1.0.0). They go on while another view is shown, and after a broken connection; after a reload, when the same file is chosen again.

import { useEffect, useState } from "./ui.js";
import { ProblemError, fetchOk, request } from "./api.js";

const KNOWN = "latentry.uploads";
const TUS = { "Tus-Resumable": "1.0.0" };
const [LEAST, MOST] = [256 * 1024, 16 * 1024 * 1024];
const CHUNK_MS = 1000; // progress moves about once a second

/** The files of this tab, in the order in which they are sent: { key, name, size, state, offset, bytesPerSecond, error, dataset }. */
const queue = [];
const listeners = new Set();
let isRunning = false;
let count = 0;

function tell() {
  for (const listener of listeners) listener([...queue]);
}

/** Return the files of this tab; a view that calls this is drawn again when one of them changes. */
export function useUploads() {
  const [items, setItems] = useState([...queue]);
  useEffect(() => {
    listeners.add(setItems);
    return () => listeners.delete(setItems);
  }, []);
  return items;
}

function change(item, changes) {
  Object.assign(item, changes);
  tell();
}

/** Uploads that began in this browser and are not complete: { fingerprint: { id, name, size, offset } }. */
function known() {
  try { return JSON.parse(localStorage.getItem(KNOWN)) ?? {}; } catch { return {}; }
}

function remember(fingerprint, upload) {
  const all = known();
  if (upload) all[fingerprint] = upload;
  else delete all[fingerprint];
  localStorage.setItem(KNOWN, JSON.stringify(all));
  tell();
}

const fingerprintOf = (file) => `${file.name}|${file.size}|${file.lastModified}`;

/** Return the uploads that wait for their file: the tab was reloaded, or the browser closed. */
export function unfinished() {
  const present = new Set(queue.filter((item) => item.state !== "failed").map((item) => item.fingerprint));
  return Object.entries(known()).filter(([fingerprint]) => !present.has(fingerprint)).map(([fingerprint, upload]) => ({ fingerprint, ...upload }));
}

/** Return { maxBytes, quotas } that apply to a new file. */
export async function limits(signal) {
  const [response, usage] = await Promise.all([fetchOk("/v1/uploads", { method: "OPTIONS", headers: TUS, signal }), request("/v1/usage", { signal })]);
  const rest = (name) => usage.quotas.find((quota) => quota.name === name)?.rest ?? null;
  return { maxBytes: Number(response.headers.get("Tus-Max-Size")) || null, storedRest: rest("stored_bytes"), uploadRest: rest("upload_bytes") };
}

/** Add files to the queue. They are sent one after the other. `onDone` is called for each with its item. */
export function add(files, onDone) {
  for (const file of files) {
    count += 1;
    queue.push({ key: count, file, fingerprint: fingerprintOf(file), name: file.name, size: file.size, state: "queued", offset: 0, onDone, controller: new AbortController() });
  }
  tell();
  work();
}

export function retry(item) {
  change(item, { state: "queued", error: null, controller: new AbortController() });
  work();
}

/** Stop an upload and delete what has arrived of it. */
export async function cancel(item) {
  item.controller.abort();
  const { uploadId } = item;
  queue.splice(queue.indexOf(item), 1);
  remember(item.fingerprint, null);
  if (uploadId && item.state !== "done") await fetchOk(`/v1/uploads/${uploadId}`, { method: "DELETE", headers: TUS }).catch(() => null); // it expires by itself
}

export async function forget({ fingerprint, id }) {
  remember(fingerprint, null);
  await fetchOk(`/v1/uploads/${id}`, { method: "DELETE", headers: TUS }).catch(() => null);
}

/** Take a file from the list; its data set stays. */
export function dismiss(item) {
  queue.splice(queue.indexOf(item), 1);
  tell();
}

async function work() {
  if (isRunning) return;
  isRunning = true;
  addEventListener("beforeunload", warn);
  for (let item = next(); item; item = next()) {
    try {
      await send(item);
    } catch (error) {
      if (!item.controller.signal.aborted) change(item, { state: "failed", error });
    }
  }
  removeEventListener("beforeunload", warn);
  isRunning = false;
}

const next = () => queue.find((item) => item.state === "queued");
const warn = (event) => event.preventDefault();

async function send(item) {
  const { signal } = item.controller;
  change(item, { state: "uploading", bytesPerSecond: null });
  if (item.size === 0) throw new Error("The file is empty. Choose another file.");
  const { maxBytes } = await limits(signal);
  if (maxBytes && item.size > maxBytes) throw new Error(`The file has ${item.size.toLocaleString("en")} bytes; this service takes at most ${maxBytes.toLocaleString("en")}. Save counts as uint8, or split the recording.`);
  await persist(item, async () => {
    const offset = await begin(item, signal);
    change(item, { offset, state: "uploading" });
    await sendRest(item, signal);
  });
  const response = await persist(item, () => fetchOk("/v1/datasets", { method: "POST", json: { upload_id: item.uploadId }, headers: { "Idempotency-Key": item.uploadId }, signal }));
  change(item, { state: "done", dataset: await response.json(), isKnown: response.status === 200 });
  remember(item.fingerprint, null);
  item.onDone?.(item);
}

/** Return how many bytes the server has; begin an upload if it has none of this file. */
async function begin(item, signal) {
  const id = item.uploadId ?? known()[item.fingerprint]?.id;
  if (id) {
    try {
      const response = await fetchOk(`/v1/uploads/${id}`, { method: "HEAD", headers: TUS, signal });
      item.uploadId = id;
      return Number(response.headers.get("Upload-Offset"));
    } catch (error) {
      if (![404, 410].includes(error.status)) throw error;
    }
  }
  const name = btoa(String.fromCharCode(...new TextEncoder().encode(item.name.slice(-200))));
  const upload = await request("/v1/uploads", { method: "POST", headers: { ...TUS, "Upload-Length": String(item.size), "Upload-Metadata": `filename ${name}` }, signal });
  item.uploadId = upload.id;
  remember(item.fingerprint, { id: upload.id, name: item.name, size: item.size, offset: 0 });
  return upload.offset;
}

async function sendRest(item, signal) {
  let size = LEAST * 4;
  while (item.offset < item.size) {
    const end = Math.min(item.size, item.offset + size);
    if (end === item.size) change(item, { isLast: true });
    const start = performance.now();
    const response = await fetchOk(`/v1/uploads/${item.uploadId}`, {
      method: "PATCH", headers: { ...TUS, "Content-Type": "application/offset+octet-stream", "Upload-Offset": String(item.offset) }, body: await bytesOf(item.file, item.offset, end), signal,
    });
    const milliseconds = Math.max(1, performance.now() - start);
    const rate = (1000 * (end - item.offset)) / milliseconds;
    change(item, { offset: Number(response.headers.get("Upload-Offset")), bytesPerSecond: item.bytesPerSecond ? 0.7 * item.bytesPerSecond + 0.3 * rate : rate, isRepeated: false });
    remember(item.fingerprint, { id: item.uploadId, name: item.name, size: item.size, offset: item.offset });
    size = Math.max(LEAST, Math.min(MOST, size * Math.max(0.5, Math.min(2, CHUNK_MS / milliseconds))));
  }
}

async function bytesOf(file, start, end) {
  try {
    return await file.slice(start, end).arrayBuffer();
  } catch {
    throw new Error("The file on your disk was moved or changed. Choose it again.");
  }
}

const PASSING = [409, 423, 429, 460, 500, 502, 503, 504];

/** Do something until it succeeds, unless the fault is one that another attempt cannot mend. */
async function persist(item, attempt) {
  const { signal } = item.controller;
  for (let delay = 1000; ; delay = Math.min(15000, 2 * delay)) {
    const before = item.offset;
    try {
      return await attempt();
    } catch (error) {
      const mayPass = error instanceof ProblemError ? PASSING.includes(error.status) : error instanceof TypeError; // a TypeError of fetch: no answer
      if (signal.aborted || !mayPass) throw error;
      if (error.status === 409 && item.isRepeated) throw error; // it is not about the offset, which was asked for again
      if (item.offset > before) delay = 1000;
      change(item, { state: "waiting", isRepeated: true, reason: error instanceof ProblemError ? error.problem.title : "The server does not answer." });
    }
    await new Promise((resolve) => { setTimeout(resolve, delay); });
    if (signal.aborted) throw new DOMException("cancelled", "AbortError");
  }
}

/** Return a file of the page's own assets, such as the sample. */
export async function assetFile(path, name) {
  const response = await fetch(new URL(`../${path}`, import.meta.url));
  if (!response.ok) throw new Error("The file could not be loaded. Reload the page.");
  return new File([await response.blob()], name, { lastModified: 0 });
}
