// The view library, and the parts that all views use.

import { h, render } from "../vendor/preact.js";
import { useCallback, useEffect, useId, useMemo, useRef, useState } from "../vendor/hooks.js";
import htm from "../vendor/htm.js";
import { useConnection } from "./api.js";
import { ago, time as clock } from "./format.js";
import { href } from "./router.js";

export const html = htm.bind(h);
export { render, useCallback, useEffect, useId, useMemo, useRef, useState };

/** Set the title of the window. */
export function useTitle(title) {
  useEffect(() => { document.title = title ? `${title} · Latentry` : "Latentry"; }, [title]);
}

/** Tell tests and benchmarks when a view shows its data: `<main data-ready="true">`. */
export function useReady(isReady) {
  useEffect(() => {
    const main = document.querySelector("main");
    if (main) main.dataset.ready = String(Boolean(isReady));
  }, [Boolean(isReady)]); // undefined while it loads, then false, is no news that a child's would follow
}

const REQUEST = /\b(GET|POST|PATCH|PUT|DELETE) \/v1\//;
const isUnreachable = (error) => error instanceof TypeError && /fetch|network|load failed/i.test(error.message);

/** What went wrong, as the server told it (RFC 9457), with what to do. nameOf: path of a field => what the form calls it */
export function Problem({ error, retry, nameOf = (path) => path }) {
  const { isOnline } = useConnection();
  if (!error || (!isOnline && isUnreachable(error))) return null; // the banner tells it
  const { title, detail, hint, errors = [], more_errors: more } = error.problem ?? { title: isUnreachable(error) ? "The server did not answer" : error.message };
  const isGone = error.status === 404 && REQUEST.test(hint); // a hint for programs
  return html`<div class="problem" role="alert">
    <strong>${title}</strong>
    ${detail && detail !== title && !detail.includes(errors[0]?.message) && html`<p>${detail}</p>`}
    ${errors.length > 0 && html`<ul>${errors.map((item) => html`<li><code>${nameOf((item.pointer ?? "").replace(/^\//, "").replaceAll("/", "."))}</code> ${item.message ?? item.detail}
      ${item.hint && html`<span class="muted"> ${item.hint}</span>`}</li>`)}
      ${more > 0 && html`<li>and ${more} more</li>`}</ul>`}
    ${isGone ? html`<p class="muted">It may have been deleted. <${Link} to="/">Home<//> lists the data sets and the jobs with their models.</p>` : hint && html`<p class="muted">${hint}</p>`}
    ${retry && html`<button type="button" onClick=${retry}>Try again</button>`}
  </div>`;
}

/** What to show where there is nothing yet: say what to do. */
export function Empty({ title, children }) {
  return html`<div class="empty"><h2>${title}</h2>${children}</div>`;
}

export function Loading({ what = "" }) {
  return html`<p class="loading" role="status">Loading ${what}…</p>`;
}

const TONES = {
  ready: "good", done: "good", active: "good", trained: "good", complete: "good", delivered: "good",
  running: "busy", working: "busy", idle: "off", draining: "wait", ingesting: "busy", training: "busy", inferring: "busy", queued: "wait", paused: "wait", stopping: "wait", expired: "wait",
  failed: "bad", rejected: "bad", diverged: "bad", given_up: "bad", cancelled: "off", revoked: "off", deleting: "off", stopped: "off", discarded: "off",
};

/** A state in its colour; the word says it, too. */
export function State({ value }) {
  return html`<span class=${`state ${TONES[value] ?? "wait"}`}>${value}</span>`;
}

/** A progress bar with its number. */
export function Progress({ fraction, label }) {
  const percent = Math.round(100 * Math.min(1, Math.max(0, fraction ?? 0)));
  return html`<span class="progress"><progress max="100" value=${percent} aria-label=${label ?? "progress"}></progress> ${percent} %</span>`;
}

/** A link to a view of the page. */
export function Link({ to, query, children, ...rest }) {
  return html`<a href=${href(to, query)} ...${rest}>${children}</a>`;
}

/** Tags of a data set or a job. */
export function Tags({ tags }) {
  return html`<span class="tags">${(tags ?? []).map((tag) => html`<${Link} class="tag" to="/" query=${{ tag }}>${tag}<//>`)}</span>`;
}

/** A "?" and the help that it opens beside the row, without moving it. Esc closes it. Return {button, text}; text is null while closed. */
export function useHelp(label, help, id) {
  const [isOpen, setOpen] = useState(false);
  const element = useRef(null);
  useEffect(() => {
    if (!isOpen) return undefined;
    const beyond = element.current.getBoundingClientRect().right - (document.documentElement.clientWidth - 8);
    if (beyond > 0) element.current.style.left = `${-beyond}px`; // it stays within the window
    const close = (event) => {
      if (event.key !== "Escape") return;
      event.preventDefault(); // a dialog around it stays open
      setOpen(false);
    };
    addEventListener("keydown", close);
    return () => removeEventListener("keydown", close);
  }, [isOpen]);
  return {
    button: help && html`<button type="button" class="help" aria-expanded=${isOpen} aria-label=${`Help: ${label}`} onClick=${() => setOpen(!isOpen)}>?</button>`,
    text: isOpen && help ? html`<p ref=${element} class="field-help" id=${id}>${help}</p>` : null,
  };
}

/** A time as "5 min ago", kept true while it is shown. */
export function Ago({ time }) {
  const [, refresh] = useState(0);
  useEffect(() => {
    const timer = setInterval(() => refresh((count) => count + 1), 10_000);
    return () => clearInterval(timer);
  }, []);
  return html`<span title=${clock(time)}>${ago(time)}</span>`;
}

/** A "?" that says what a word means. */
export function Help({ label, text }) {
  const help = useHelp(label, text, useId());
  return html`<span class="help-of-word">${help.button}${help.text}</span>`;
}

/**
 * A labelled control, with help that opens on request. `children` is a function that gets the attributes of the control:
 * html`<${Field} label="Models" help="…">${(attributes) => html`<input type="number" ...${attributes} />`}<//>`
 */
export function Field({ label, help, unit, error, children }) {
  const id = useId();
  const { button, text } = useHelp(label, help, `${id}h`);
  const described = [text ? `${id}h` : "", error ? `${id}e` : ""].filter(Boolean).join(" ") || undefined;
  return html`<div class="field">
    <span class="field-label"><label for=${id}>${label}${unit && html` <span class="muted">(${unit})</span>`}</label>
      ${button}</span>
    ${children({ id, "aria-describedby": described, "aria-invalid": error ? "true" : undefined })}
    ${text}
    ${error && html`<p class="field-error" id=${`${id}e`}>${error}</p>`}
  </div>`;
}

const LONG = 20; // letters of a header that takes two lines

/**
 * A table that sorts by a click on a header.
 *
 * columns: [{ key, label, value: row => number | string, show: row => html, numeric, isText, help }]; a column of sentences (`isText`) is not narrow
 * most: rows that are shown at first; a button shows the others. onSort: gets { key, descending }, for the address of the view
 */
export function Table({ columns, rows, caption, initial, onRow, onSort, most = Infinity, rowKey = (row) => row.id }) {
  const [sort, setSort] = useState(initial ?? null);
  const [isWhole, setWhole] = useState(false);
  const sorted = useMemo(() => {
    const column = sort && columns.find((item) => item.key === sort.key);
    if (!column) return rows;
    const value = column.value ?? ((row) => row[column.key]);
    const compare = (a, b) => (typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), undefined, { numeric: true }));
    const known = rows.filter((row) => value(row) !== null && value(row) !== undefined);
    const unknown = rows.filter((row) => !known.includes(row));
    known.sort((a, b) => compare(value(a), value(b)) * (sort.descending ? -1 : 1));
    return [...known, ...unknown];
  }, [rows, sort, columns]);
  const toggle = (key) => {
    const next = { key, descending: sort?.key === key && !sort.descending };
    setSort(next);
    onSort?.(next);
  };
  const shown = isWhole ? sorted : sorted.slice(0, most);
  return html`<div class="table" tabindex="0" role="region" aria-label=${caption}><table>
    <caption class="hidden">${caption}</caption>
    <thead><tr>${columns.map((column) => html`<th scope="col" class=${`${column.numeric ? "number" : ""}${column.label.length > LONG ? " long" : ""}`}
      aria-sort=${sort?.key === column.key ? (sort.descending ? "descending" : "ascending") : undefined}>
      ${column.unsorted ? column.label : html`<button type="button" class="plain" title=${column.help} onClick=${() => toggle(column.key)}>${column.label}
        <span aria-hidden="true">${sort?.key === column.key ? (sort.descending ? " ↓" : " ↑") : ""}</span></button>`}</th>`)}</tr></thead>
    <tbody>${shown.map((row) => html`<tr key=${rowKey(row)} onClick=${onRow && (() => onRow(row))} class=${onRow ? "clickable" : ""}>
      ${columns.map((column) => html`<td class=${column.numeric ? "number" : column.isText ? "sentences" : ""}>${column.show ? column.show(row) : row[column.key]}</td>`)}</tr>`)}</tbody>
  </table></div>
  ${shown.length < sorted.length && html`<p><button type="button" onClick=${() => setWhole(true)}>Show all ${sorted.length} rows</button></p>`}`;
}

/** A dialog of the browser: Escape closes it, the focus stays in it, and returns to what opened it. */
export function Dialog({ title, onClose, children }) {
  const element = useRef(null);
  const id = useId();
  useEffect(() => {
    const opener = document.activeElement;
    element.current.showModal();
    return () => queueMicrotask(() => opener?.focus()); // the browser returns the focus only if the dialog is closed before it is removed
  }, []);
  return html`<dialog ref=${element} aria-labelledby=${id} onClose=${onClose}>
    <header><h2 id=${id}>${title}</h2><button type="button" class="plain" aria-label="Close" onClick=${() => element.current.close()}>✕</button></header>
    ${children}
  </dialog>`;
}

/** A button that says what it copied. */
export function Copy({ text, label = "Copy" }) {
  const [state, setState] = useState("");
  const copy = async () => {
    try {
      await navigator.clipboard.writeText(text);
      setState("Copied");
    } catch {
      setState("Select the text and press Ctrl-C"); // browsers allow the clipboard on HTTPS and localhost only
    }
    setTimeout(() => setState(""), 3000);
  };
  return html`<button type="button" onClick=${copy} aria-live="polite">${state || label}</button>`;
}

/** A button for something that takes time: it cannot be pressed twice, and shows what went wrong. */
export function Action({ run, children, ...rest }) {
  const [state, setState] = useState({});
  const press = async () => {
    setState({ isBusy: true });
    try {
      await run();
      setState({});
    } catch (error) {
      setState({ error });
    }
  };
  return html`<span class="action"><button type="button" disabled=${state.isBusy} onClick=${press} ...${rest}>${children}</button>
    <${Problem} error=${state.error} /></span>`;
}

/** A tiny curve. points: numbers, or null where there is none. */
export function Sparkline({ points, label, width = 96, height = 24 }) {
  const known = (points ?? []).filter((value) => Number.isFinite(value));
  if (known.length < 2) return html`<span class="muted">–</span>`;
  const low = Math.min(...known);
  const range = Math.max(...known) - low || 1;
  const path = points.map((value, index) => (Number.isFinite(value)
    ? `${(2 + (index / (points.length - 1)) * (width - 4)).toFixed(1)},${(height - 2 - ((value - low) / range) * (height - 4)).toFixed(1)}` : null))
    .filter(Boolean).join(" ");
  return html`<svg class="sparkline" width=${width} height=${height} role="img" aria-label=${label}><polyline points=${path} /></svg>`;
}

/** Tabs that are links, so that each has an address. */
export function Tabs({ tabs, current, to, query = {} }) {
  return html`<nav class="tabs" aria-label="Parts of this view">${tabs.map(([key, label]) => html`<${Link} to=${to}
    query=${{ ...query, tab: key }} aria-current=${key === current ? "page" : undefined}>${label}<//>`)}</nav>`;
}
