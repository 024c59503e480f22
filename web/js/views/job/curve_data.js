// The learning curves of the models of a job.

import { useMemo } from "../../ui.js";
import { request, useLoaded } from "../../api.js";

const MOST_CURVES = 20;

/**
 * Load the curves and add what the stream of events brought since.
 *
 * Returns { curves, error, isPartial }: a Map from numbers of models to { epoch, sv, validation }, lists of equal length.
 */
export function useCurves(live) {
  const { job, models, latest, version } = live;
  const loaded = useLoaded((signal) => loadCurves(models, signal), [job.id, job.state, models.length]);
  const curves = useMemo(() => loaded.data && withLatest(loaded.data.curves, latest), [loaded.data, version]);
  return { curves, error: loaded.error, isPartial: loaded.data?.isPartial };
}

async function loadCurves(models, signal) {
  const begun = models.filter((model) => model.epochs_trained > 0)
    .sort((a, b) => (a.scores.smoothed_sv_loss ?? Infinity) - (b.scores.smoothed_sv_loss ?? Infinity));
  const curves = new Map();
  await Promise.all(begun.slice(0, MOST_CURVES).map(async (model) => {
    const { points } = await request(`/v1/models/${model.id}/learning_curve`, { signal });
    curves.set(model.number, { epoch: points.map((point) => point.epoch), sv: points.map((point) => point.sv_loss), validation: points.map((point) => point.validation_loss) });
  }));
  return { curves, isPartial: begun.length > MOST_CURVES };
}

function withLatest(curves, latest) {
  const result = new Map(curves);
  for (const [number, points] of latest) {
    const { epoch, sv, validation } = result.get(number) ?? { epoch: [], sv: [], validation: [] };
    const fresh = points.filter((point) => point.epoch > (epoch.at(-1) ?? 0));
    if (fresh.length) {
      result.set(number, { epoch: [...epoch, ...fresh.map((point) => point.epoch)], sv: [...sv, ...fresh.map((point) => point.sv_loss)], validation: [...validation, ...fresh.map((point) => point.validation_loss)] });
    }
  }
  return result;
}
