// Numbers, times and sizes as people read them.

const NUMBER = new Intl.NumberFormat("en", { maximumSignificantDigits: 4 });

export function number(value, digits) {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  return digits === undefined ? NUMBER.format(value) : value.toFixed(digits);
}

export function percent(fraction) {
  return fraction === null || fraction === undefined ? "–" : `${number(100 * fraction, 0)} %`;
}

/** 5400 → "1 h 30 min" */
export function duration(seconds) {
  if (seconds === null || seconds === undefined || !Number.isFinite(seconds)) return "–";
  if (seconds < 1) return "under 1 s";
  if (seconds < 90) return `${Math.round(seconds)} s`;
  const minutes = Math.round(seconds / 60);
  if (minutes < 90) return `${minutes} min`;
  if (minutes < 48 * 60) return `${Math.floor(minutes / 60)} h${minutes % 60 ? ` ${minutes % 60} min` : ""}`;
  return `${Math.round(minutes / 1440)} days`;
}

export function bytes(size) {
  if (size === null || size === undefined) return "–";
  const units = ["B", "kB", "MB", "GB", "TB"];
  const power = size > 0 ? Math.min(units.length - 1, Math.floor(Math.log10(size) / 3)) : 0;
  return `${number(size / 1000 ** power)} ${units[power]}`;
}

/** A limit of the settings, which are in powers of two: "50 GiB" */
export function binaryBytes(size) {
  const power = size > 0 ? Math.min(4, Math.floor(Math.log2(size) / 10)) : 0;
  return `${number(size / 1024 ** power)} ${["B", "KiB", "MiB", "GiB", "TiB"][power]}`;
}

/** A time of the server (UTC) in the reader's own zone: "30 Nov 2026, 18:41". */
export function time(text) {
  return text ? new Date(text).toLocaleString(undefined, { day: "numeric", month: "short", year: "numeric", hour: "2-digit", minute: "2-digit" }) : "–";
}

/** With seconds, for what follows each other fast: "30 Nov 2026, 18:41:07" */
export function exactTime(text) {
  return text ? new Date(text).toLocaleString(undefined, { day: "numeric", month: "short", year: "numeric", hour: "2-digit", minute: "2-digit", second: "2-digit" }) : "–";
}

/** "5 min ago" */
export function ago(text) {
  if (!text) return "–";
  const seconds = (Date.now() - new Date(text)) / 1000;
  if (seconds < 10) return "now";
  const hours = Math.round(seconds / 3600);
  return hours < 3 ? `${duration(seconds)} ago` : hours < 36 ? `${hours} h ago` : `${plural(Math.round(seconds / 86400), "day")} ago`;
}

export function plural(count, noun) {
  return `${count} ${noun}${count === 1 ? "" : "s"}`;
}

/** The name of a job, or else what it is: "quick search on spikes.npz". */
export function jobName(job) {
  return job.name || `${job.specification.preset ?? job.specification.strategy.kind} search on ${job.dataset_name || "a data set"}`;
}

/** Where a job runs: "cpu (2 workers, 2 models each)". */
export function whereRuns(runs) {
  return [...new Set(runs.map(({ device }) => device))].map((device) => {
    const parts = runs.filter((run) => run.device === device);
    const counts = parts.map(({ kind, models }) => (kind === "infer" ? "latents" : plural(models, "model")));
    const isEven = counts.every((count) => count === counts[0]);
    if (parts.length === 1) return `${device} (${counts[0]})`;
    return `${device} (${plural(parts.length, "worker")}, ${isEven ? `${counts[0]} each` : counts.join(" and ")})`;
  }).join(", ");
}

/** The name that people gave, or else a short form of the id. */
export function nameOf(item) {
  return item.name || item.id.slice(0, 4) + "…" + item.id.slice(-6);
}
