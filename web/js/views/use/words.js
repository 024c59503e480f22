// Words of the field for what the service calls by internal names: quotas, kinds of objects, actions, kinds of old data.

import { number } from "../../format.js";

/** Quotas that the operator can set, with the unit of the dialog and how many units of the service it has. */
export const QUOTAS = {
  stored_bytes: { label: "Stored data", unit: "GiB", factor: 2 ** 30 },
  database_bytes: { label: "Rows in the database", unit: "GiB", factor: 2 ** 30 },
  written_bytes_per_day: { label: "Written in a day", unit: "MiB", factor: 2 ** 20 },
  upload_bytes: { label: "Unfinished uploads", unit: "GiB", factor: 2 ** 30 },
  open_jobs: { label: "Unfinished jobs", unit: "jobs", factor: 1 },
  shares: { label: "Shared links", unit: "links", factor: 1 },
  job_model_epochs: { label: "Models × epochs of one job", unit: "epochs", factor: 1 },
  device_seconds_per_day: { label: "Device time in a day", unit: "hours", factor: 3600 },
  device_seconds_per_month: { label: "Device time in a month", unit: "hours", factor: 3600 },
  requests_per_minute: { label: "Requests in a minute", unit: "requests", factor: 1 },
  key_requests_per_minute: { label: "Requests in a minute with one key", unit: "requests", factor: 1 },
};

export const KINDS = {
  dataset: "data set", job: "job", model: "model", inference: "inference", key: "key", share: "shared link", webhook: "webhook",
  upload: "upload", tenant: "tenant", worker: "worker",
};

const ACTIONS = {
  created: "made", changed: "changed", deleted: "deleted", retried: "tried again", cancelled: "cancelled", paused: "paused", resumed: "resumed",
  stopped: "stopped", extended: "extended", completed: "completed", tested: "tested", revoked: "revoked", drained: "drained",
  latents_deleted: "deleted the latents of", deliveries_deleted: "deleted the messages of", quotas_changed: "changed the quotas of",
  retention_changed: "changed the retention of",
};

/** "model.latents_deleted" → "deleted the latents of". An action without a word here is shown with spaces. */
export function actionWords(action) {
  const name = action.split(".").pop();
  return ACTIONS[name] ?? name.replaceAll("_", " ");
}

/** Old data by kind: what it is, and the noun of its number. */
export const OLD_DATA = {
  originals: ["Uploaded files that no data set has used since", "file"],
  checkpoints: ["Weights of models that were not selected", "model"],
  curves: ["Every epoch of learning curves; then about 50 points stay", "point"],
  thinned_curves: ["The points of learning curves that stay", "point"],
  events: ["Events of jobs", "event"],
  slices: ["Records of the slices of training", "record"],
  idempotency: ["Stored answers to repeated requests", "answer"],
  deliveries: ["Messages to webhooks", "message"],
  shares: ["Shared links that have ended", "link"],
};

const DETAILS = {
  fields: "changed", reason: "reason", days: "kept", device: "device", models: "more models", epochs: "more epochs",
  wall_seconds: "more wall time (s)", device_seconds: "more device time (s)",
};
const HIDDEN = new Set(["target_id", "name"]);

function valueWords(value) {
  if (value === null || value === "") return "as the settings";
  if (Array.isArray(value)) return value.join(", ");
  if (typeof value === "object") return Object.entries(value).map(([name, one]) => `${(OLD_DATA[name]?.[0] ?? name).toLowerCase()} ${one === "forever" ? "for ever" : `for ${one} days`}`).join("; ");
  return String(value);
}

/** The details of a change in words. */
export function detailWords(details) {
  return Object.entries(details ?? {}).filter(([name, value]) => !HIDDEN.has(name) && !(name === "reason" && !value)).map(([name, value]) => {
    const quota = QUOTAS[name];
    if (!quota) return `${DETAILS[name] ?? name.replaceAll("_", " ")}: ${valueWords(value)}`;
    if (value === null) return `${quota.label}: as the settings`;
    return `${quota.label}: ${value === 0 ? "no limit" : `${number(value / quota.factor)} ${quota.unit}`}`;
  }).join("; ");
}
