// A job: what it does now, its models and their curves, what its search found.

import { html, useMemo, Empty, Loading, Problem, Tabs, useReady, useTitle } from "../ui.js";
import { jobName } from "../format.js";
import { Curves } from "./job/curves.js";
import { useCurves } from "./job/curve_data.js";
import { Decisions } from "./job/decisions.js";
import { Events } from "./job/events.js";
import { JobHeader } from "./job/header.js";
import { Hyperparameters } from "./job/hyperparameters.js";
import { LeakNote, leaksOf } from "./job/leaks.js";
import { isFinal, useLive } from "./job/live.js";
import { Models, useShown } from "./job/models.js";
import { Report, Settings } from "./job/report.js";
import { searchedIn } from "./job/words.js";

const TABS = [["curves", "Curves and models"], ["report", "Report"], ["hyperparameters", "Hyperparameters"], ["decisions", "Decisions"], ["settings", "Settings"], ["events", "Events"]];

export default function JobView({ route, caller }) {
  const id = route.parts[1];
  const live = useLive(id);
  const { job, models, error } = live;
  const tab = TABS.some(([key]) => key === route.query.tab) ? route.query.tab : "curves";
  useTitle(job ? jobName(job) : "Job");
  const searched = useMemo(() => (job ? searchedIn(job.specification) : []), [job?.id]);
  const shown = useShown(models, route.query);
  useReady(error && !job);
  if (!id) return html`<${Empty} title="No job is chosen"><p>Choose one on Home.</p><//>`;
  if (!job || !models) return html`${error ? html`<h1>Job</h1><${Problem} error=${error} retry=${live.reload} />` : html`<${Loading} what="the job" />`}`;
  return html`<${JobHeader} live=${live} caller=${caller} tab=${TABS.find(([key]) => key === tab)[1]} />
    <${Tabs} tabs=${TABS} current=${tab} to=${`/jobs/${id}`} />
    <${PARTS[tab]} key=${tab} live=${live} query=${route.query} searched=${searched} shown=${shown} />`;
}

const PARTS = { curves: Training, report: Report, hyperparameters: Hyperparameters, decisions: Decisions, settings: Settings, events: Events };

const WITHOUT_EPOCHS = {
  queued: "The job waits for a worker. This page shows its curves as soon as it trains.",
  paused: "The job is paused. Resume it, and its curves appear after the first epoch.",
};

function Training({ live, query, searched, shown }) {
  const { job, models } = live;
  const { curves, error } = useCurves(live);
  const leaks = useMemo(() => leaksOf(job, models, curves), [job.diagnostics, models, curves]);
  useReady(curves);
  if (!models.some((model) => model.epochs_trained > 0)) {
    return html`<${Empty} title="No epoch is trained yet"><p>${WITHOUT_EPOCHS[job.state] ?? (isFinal(job) ? "The job ended before its first epoch." : "The first epoch is training; curves appear in seconds.")}</p><//><${Models} models=${models} searched=${searched} leaks=${leaks} query=${query} />`;
  }
  return html`<${Problem} error=${error} />
    ${curves ? html`<${Curves} job=${job} models=${shown} curves=${curves} leaks=${leaks} searched=${searched} query=${query} />` : html`<${Loading} what="learning curves" />`}
    <${LeakNote} leaks=${leaks} count=${models.length} />
    <${Models} models=${models} searched=${searched} leaks=${leaks} query=${query} />`;
}
