// Deletion: a button that first says what goes with the thing, then deletes it.

import { html, useRef, useState, Dialog, Loading, Problem } from "../ui.js";
import { ifMay, request } from "../api.js";
import { bytes, plural } from "../format.js";

const PARTS = { datasets: "data set", jobs: "job", models: "model", inferences: "inference" };
const OWN = { dataset: "datasets", job: "jobs", inference: "inferences" };

const ROWS = { trials: "trial", shares: "shared link", slices: "record", events: "event", decisions: "decision", deliveries: "message", curve_points: "point" };
const OF = { slices: " of pieces of training", deliveries: " to webhooks", curve_points: " of learning curves" };
/** "1 shared link", "4,300 points of learning curves" */
const rowWords = (name, count) => `${count.toLocaleString("en")} ${ROWS[name] ? `${ROWS[name]}${count === 1 ? "" : "s"}${OF[name] ?? ""}` : name.replaceAll("_", " ")}`;

/** Return what a deletion takes along, as sentences' parts: "2 jobs", "31 models", "1.2 MB of arrays". */
export function listOf(plan) {
  const counted = Object.entries(PARTS)
    .map(([key, noun]) => [plan[key].count - (OWN[plan.kind] === key ? 1 : 0), noun])
    .filter(([count]) => count > 0).map(([count, noun]) => plural(count, noun));
  const rows = Object.entries(plan.rows ?? {}).filter(([, count]) => count > 0)
    .map(([name, count]) => rowWords(name, count));
  return [
    ...counted, ...rows,
    ...(plan.array_bytes ? [`${bytes(plan.array_bytes)} of arrays and weights`] : []),
    ...(plan.file_bytes ? [`${bytes(plan.file_bytes)} of uploaded files`] : []),
  ];
}

function Plan({ plan, name, onDelete, onClose }) {
  const taken = listOf(plan);
  return html`<p>${taken.length ? html`Deleting <b>${name}</b> also deletes:` : html`Nothing else goes with <b>${name}</b>.`}</p>
    <ul>${taken.map((item) => html`<li>${item}</li>`)}</ul>
    ${plan.kept.length > 0 && html`<p>This stays:</p><ul>${plan.kept.map((item) => html`<li>${item}</li>`)}</ul>`}
    ${plan.refused
    ? html`<div class="warning" role="alert"><strong>It cannot be deleted now.</strong><p>${plan.refused}</p></div>
      <p class="buttons"><button type="button" onClick=${onClose}>Close</button></p>`
    : html`<p>There is no trash: deleted data cannot be restored.</p>
      <p class="buttons"><button type="button" class="danger" onClick=${onDelete}>Delete</button> <button type="button" onClick=${onClose}>Keep</button></p>`}`;
}

/**
 * A button that asks the server what a deletion takes along (`dry_run`), lists it, and deletes after a second press.
 *
 * path: such as `/v1/jobs/job_1`; query: such as { cascade: true }; name: as people know it; onDeleted: called after the server accepted
 */
export function DeleteButton({ path, query = {}, name, onDeleted, label = "Delete…" }) {
  const [state, setState] = useState({});
  const dialog = useRef(null);
  const close = () => { dialog.current = null; setState({}); };
  const attempt = (wanted, then) => async () => {
    const own = dialog.current ?? {};
    dialog.current = own;
    setState((old) => ({ ...old, isOpen: true, isBusy: true, error: null }));
    try {
      const plan = await request(path, { method: "DELETE", query: { ...query, ...wanted } });
      if (dialog.current === own) then(plan);
    } catch (error) {
      if (dialog.current === own) setState((old) => ({ ...old, isBusy: false, error }));
    }
  };
  const look = attempt({ dry_run: true }, (plan) => setState({ isOpen: true, plan }));
  const remove = attempt({}, (plan) => { close(); onDeleted?.(plan); });
  const { isOpen, isBusy, plan, error } = state;
  return html`<button type="button" class="danger" aria-haspopup="dialog" onClick=${look} ...${ifMay()}>${label}</button>
    ${isOpen && html`<${Dialog} title=${`Delete ${name}?`} onClose=${close}>
      <${Problem} error=${error} />
      ${isBusy && html`<${Loading} what="what goes with it" />`}
      ${!isBusy && plan && html`<${Plan} plan=${plan} name=${name} onDelete=${remove} onClose=${close} />`}
    <//>`}`;
}
