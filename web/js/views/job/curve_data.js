// The learning curves of the models of a job: once as a whole, then only what is new.

import { useEffect, useRef, useState } from "../../ui.js";
import { request, useConnection } from "../../api.js";

/** Points of each model: fewer where there are many models. */
export function pointsFor(models) {
  return models.length > 100 ? 100 : 200;
}

/** Load the curves, and what is new each time the stream of events brought progress: { curves, error }, a Map from numbers to { epoch, sv, validation }. */
export function useCurves({ job, models, version }) {
  const { generation } = useConnection();
  const [state, setState] = useState({ curves: null, error: null });
  const reading = useRef({ curves: new Map(), after: null, isBusy: false, isWanted: false });
  const read = async () => {
    const now = reading.current;
    now.isWanted = true;
    if (now.isBusy) return;
    now.isBusy = true;
    while (now.isWanted && !now.isGone) {
      now.isWanted = false;
      try {
        const found = await request(`/v1/jobs/${job.id}/curves`, { query: { points: pointsFor(models), after: now.after } });
        now.curves = extended(now.curves, found.models);
        now.after = found.next_after;
        if (!now.isGone) setState({ curves: now.curves, error: null });
      } catch (error) { if (!now.isGone) setState({ curves: now.curves, error }); }
    }
    now.isBusy = false;
  };
  useEffect(() => { read(); }, [job.id, job.state, version, generation]);
  useEffect(() => () => { reading.current.isGone = true; }, []);
  return state;
}

/** Return the curves with later points. Models without new points keep their lists. */
function extended(curves, models) {
  const result = new Map(curves);
  for (const model of models) {
    const old = result.get(model.number) ?? { epoch: [], sv: [], validation: [] };
    const last = old.epoch.at(-1) ?? -1;
    const first = model.epoch.findIndex((epoch) => epoch > last);
    if (first < 0) continue;
    result.set(model.number, { epoch: [...old.epoch, ...model.epoch.slice(first)], sv: [...old.sv, ...model.sv_loss.slice(first)], validation: [...old.validation, ...model.validation_loss.slice(first)] });
  }
  return result;
}
