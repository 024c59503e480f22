// A job that changes while one looks at it: its document and its models, by the stream of its events.

import { useCallback, useMemo, useRef, useState } from "../../ui.js";
import { readAll, useDocument, useEvents, useLoaded } from "../../api.js";

const FINAL = ["done", "failed", "cancelled", "deleting"];
const MOST_MODELS = 1001; // the largest search, and its refit

export function isFinal(job) {
  return FINAL.includes(job.state);
}

/** Return a function that calls `action` at most every `ms`, the last call included. */
function useThrottled(action, ms) {
  const state = useRef({ timer: null });
  state.current.action = action;
  return useCallback(() => {
    state.current.timer ??= setTimeout(() => { state.current.timer = null; state.current.action(); }, ms);
  }, [ms]);
}

/**
 * Follow a job.
 *
 * Returns { job, models, error, reload, version, worker }: `models` are the documents of its models, with what the stream told since;
 * `version` changes with each progress, `worker` is the name of the worker that began the last slice.
 */
export function useLive(id) {
  const [isLive, setLive] = useState(false);
  const job = useDocument(`/v1/jobs/${id}`, { everyMs: isLive ? 15000 : 0 });
  const models = useLoaded((signal) => readAll(`/v1/jobs/${id}/models`, { signal, most: MOST_MODELS }), [id]);
  const latest = useRef(new Map());
  const [version, setVersion] = useState(0);
  const [worker, setWorker] = useState(null);
  if (job.data && isLive === isFinal(job.data)) setLive(!isLive);
  const reloadJob = useThrottled(job.reload, 2000);
  const reloadModels = useThrottled(models.reload, 5000);
  const show = useThrottled(() => setVersion((number) => number + 1), 2000);
  useEvents(isLive ? `/v1/jobs/${id}/events/stream?replay=false` : null, ({ event, data: { data } }) => {
    if (event === "progress") {
      for (const point of data.models) latest.current.set(point.number, point);
      show();
    } else if (event !== "job.diagnostics") reloadModels();
    if (event === "slice.state" && data.worker) setWorker(data.worker);
    reloadJob();
  });
  const rows = useMemo(() => (models.data?.items ?? []).map((model) => withLatest(model, latest.current.get(model.number))), [models.data, version]);
  const reload = useCallback(() => { job.reload(); models.reload(); }, []);
  return { job: job.data, models: models.data && rows, error: job.error ?? models.error, reload, version, worker };
}

/** Return a model with the epoch and the last losses that the stream told. */
function withLatest(model, point) {
  if (!point || point.epoch <= model.epochs_trained) return model;
  const scores = { ...model.scores, last_sv_loss: point.sv_loss, last_validation_loss: point.validation_loss };
  return { ...model, state: model.state === "queued" ? "training" : model.state, epochs_trained: point.epoch, scores };
}
