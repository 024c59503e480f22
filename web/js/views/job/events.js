// What happened to a job, newest first, in plain words.

import { html, useEffect, useState, Empty, Loading, Problem, useReady } from "../../ui.js";
import { request } from "../../api.js";
import { setQuery } from "../../router.js";
import { number, plural, exactTime } from "../../format.js";

const PAGE = 100;

/** Read events page by page; start again when `version` changes. */
function useEventPages(jobId, version) {
  const [state, setState] = useState({ items: null, token: null, error: null });
  const read = async (token) => {
    try {
      const page = await request(`/v1/jobs/${jobId}/events`, { query: { newest_first: true, page_size: PAGE, page_token: token } });
      setState((old) => ({ items: token ? [...old.items, ...page.items] : page.items, token: page.next_page_token, error: null }));
    } catch (error) { setState((old) => ({ ...old, error })); }
  };
  useEffect(() => { read(null); }, [jobId, version]);
  return { ...state, more: () => read(state.token) };
}

const WORDS = {
  "job.state": ({ state, error }) => `The job is ${state}${error ? `: ${error.message}` : ""}.`,
  "job.extended": (data) => `The budget was extended: ${Object.entries(data).map(([name, value]) => `${name.replaceAll("_", " ")} ${value}`).join(", ")}.`,
  "job.diagnostics": () => "The diagnostics are ready.",
  "model.state": ({ number: model, state, reason }) => `Model ${model} is ${state}${reason ? `: ${reason}` : ""}.`,
  "model.copied": ({ number: model, parent_number: parent, epoch, reason }) => `Model ${model} copies model ${parent} after epoch ${epoch}${reason ? `: it ${reason}` : ""}.`,
  "slice.state": ({ state, worker, attempt }) => `A piece of training is ${state === "leased" ? "running" : state}${worker ? ` on ${worker}` : ""}${attempt ? `, attempt ${attempt + 1}` : ""}.`,
  progress: ({ models }) => {
    const best = [...models].sort((a, b) => a.sv_loss - b.sv_loss)[0];
    return best ? `${plural(models.length, "model")} at epoch ${best.epoch}; lowest SV loss ${number(best.sv_loss)} nats per sample (model ${best.number}).` : "No model has trained yet.";
  },
};

export function Events({ live, query }) {
  const { job } = live;
  const { items, token, error, more } = useEventPages(job.id, `${job.state} ${query.progress === "1" ? live.version : 0}`);
  useReady(items || error);
  if (!items) return error ? html`<${Problem} error=${error} />` : html`<${Loading} what="events" />`;
  const withProgress = query.progress === "1";
  const shown = withProgress ? items : items.filter((event) => event.kind !== "progress");
  return html`<div class="row"><h2>Events</h2><label class="end"><input type="checkbox" checked=${withProgress} onChange=${() => setQuery({ progress: withProgress ? null : "1" })} /> also the progress of training</label></div>
    <${Problem} error=${error} />
    ${shown.length === 0 ? html`<${Empty} title="No event here"><p>${token ? "The newest events report the progress of training. Show older events." : "Nothing has happened yet."}</p><//>`
    : html`<ol class="events">${shown.map((event) => html`<li key=${event.id}><time datetime=${event.created_at} class="muted">${exactTime(event.created_at)}</time> ${WORDS[event.kind]?.(event.data) ?? event.kind}</li>`)}</ol>`}
    ${token && html`<p><button type="button" onClick=${more}>Older events</button></p>`}`;
}
