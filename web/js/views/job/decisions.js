// What the strategy decided about each model, in plain words, and where the weights of a model come from.

import { html, useEffect, useMemo, useState, Empty, Loading, Problem, Table, useReady } from "../../ui.js";
import { fetchOk, readAll, saveBlob, useDocument, useLoaded } from "../../api.js";
import { setQuery } from "../../router.js";
import { number, exactTime } from "../../format.js";
import { nameOfValue, short } from "./words.js";

const MOST = 4000;

export function Decisions({ live, query }) {
  const { job, models } = live;
  const decisions = useLoaded((signal) => readAll(`/v1/jobs/${job.id}/decisions`, { signal, most: MOST }), [job.id], job.ended_at ? 0 : 20000);
  const hasTrained = models.some((model) => model.epochs_trained > 0);
  const isPopulation = job.specification.strategy.kind === "pbt";
  const [isDrawn, setDrawn] = useState(!(isPopulation && hasTrained));
  useReady(decisions.data && isDrawn);
  return html`${isPopulation && hasTrained && html`<${Lineage} job=${job} models=${models} wanted=${query.model} onDrawn=${setDrawn} />`}
    <h2>Decisions</h2>
    <${Problem} error=${decisions.error} retry=${decisions.reload} />
    ${decisions.data ? html`<${DecisionTable} decisions=${decisions.data.items} isComplete=${decisions.data.isComplete} query=${query} />` : html`<${Loading} what="decisions" />`}`;
}

/** "learning rate 0.004 → 0.0031, dropout 0.2 → 0.24" */
function changed(before, after) {
  if (!before) return "";
  return Object.keys(after).filter((name) => before[name] !== undefined && before[name] !== after[name])
    .map((name) => `${nameOfValue(name)} ${short(before[name])} → ${short(after[name])}`).join(", ");
}

/** Return each decision with a sentence. The values of a copy are compared with those of the model that it copies. */
function inWords(decisions) {
  const present = new Map();
  const sentence = (one) => {
    const { kind, model_number: model, parent_number: parent, epoch, reason } = one;
    if (kind === "begin") return `Model ${model} begins: ${reason}.`;
    if (kind === "copy") {
      const changes = changed(present.get(parent), one.hyperparameters);
      return `After epoch ${epoch}, model ${model} copies the weights of model ${parent}, because it ${reason}.${changes ? ` It continues with other values: ${changes}.` : ""}`;
    }
    return kind === "end" ? `After epoch ${epoch}, model ${model} ends: ${reason}.` : `After epoch ${epoch}, model ${model} continues: it ${reason}.`;
  };
  return decisions.map((one) => {
    const words = sentence(one);
    present.set(one.model_number, one.hyperparameters);
    return { ...one, words };
  });
}

const COLUMNS = [
  { key: "epoch", label: "Epoch", numeric: true },
  { key: "model_number", label: "Model", numeric: true },
  { key: "kind", label: "Decision" },
  { key: "smoothed_sv_loss", label: "Lowest smoothed SV loss", help: "Until then, in nats per sample.", numeric: true, show: (row) => number(row.smoothed_sv_loss) },
  { key: "words", label: "In words", unsorted: true, isText: true },
  { key: "created_at", label: "When", show: (row) => html`<span class="nowrap">${exactTime(row.created_at)}</span>` },
];
const KINDS = [["", "all decisions"], ["copy", "copies"], ["begin", "begins"], ["end", "ends"], ["continue", "continues"]];

function DecisionTable({ decisions, isComplete, query }) {
  const rows = useMemo(() => inWords(decisions), [decisions]);
  const { kind = "", of = "" } = query;
  const shown = useMemo(() => rows.filter((one) => (!kind || one.kind === kind) && (of === "" || String(one.model_number) === of)), [rows, kind, of]);
  if (!rows.length) return html`<${Empty} title="No decision yet"><p>The strategy decides when models begin and after each slice of training.</p><//>`;
  return html`<p class="buttons"><label>Show <select value=${kind} onChange=${(event) => setQuery({ kind: event.target.value })}>${KINDS.map(([value, label]) => html`<option value=${value}>${label}</option>`)}</select></label>
      <label>of model <input type="number" min="0" size="5" placeholder="all" value=${of} onInput=${(event) => setQuery({ of: event.target.value })} /></label>
      <span class="muted">${shown.length} of ${rows.length}${isComplete ? "" : ` (the first ${MOST})`}</span></p>
    <${Table} caption="Decisions of the strategy" columns=${COLUMNS} rows=${shown} most=${100} />`;
}

/** Return the address of a picture that needs the key, and its error. */
function usePicture(path, query) {
  const picture = useLoaded(async (signal) => (await fetchOk(path, { query, signal })).blob(), [path, query]);
  const [url, setUrl] = useState(null);
  useEffect(() => {
    if (!picture.data) return undefined;
    const made = URL.createObjectURL(picture.data);
    setUrl(made);
    return () => URL.revokeObjectURL(made);
  }, [picture.data]);
  return { url, error: picture.error, blob: picture.data };
}

function Lineage({ job, models, wanted, onDrawn }) {
  const selected = models.find((model) => model.is_selected);
  const query = { model: wanted ?? selected?.number };
  const { url, error, blob } = usePicture(`/v1/jobs/${job.id}/lineage.svg`, query);
  useEffect(() => onDrawn(Boolean(url || error)), [url, error]);
  const lineage = useDocument(`/v1/jobs/${job.id}/lineage`, { query });
  return html`<h2>Lineage</h2>
    <p>In a population, a model that loses copies the weights of a winner. The thick line shows which models trained the weights of
      <label> model <select value=${query.model ?? lineage.data?.model_number ?? ""} onChange=${(event) => setQuery({ model: event.target.value })}>${[...models].sort((a, b) => a.number - b.number)
  .map((model) => html`<option value=${model.number}>${model.number}${model.is_selected ? " (selected)" : ""}</option>`)}</select></label>.</p>
    <${Problem} error=${error ?? lineage.error} />
    <div class="card picture">${url ? html`<img src=${url} alt=${`Lineage of model ${query.model ?? ""}: models by epoch, with copies as arrows`} />` : !error && html`<${Loading} what="the picture" />`}</div>
    ${blob && html`<p><button type="button" class="plain flush" onClick=${() => saveBlob(blob, "lineage.svg")}>Save the picture (SVG)</button></p>`}
    ${lineage.data && html`<${Segments} lineage=${lineage.data} />`}`;
}

const SEGMENTS = [
  { key: "from_epoch", label: "Epochs", numeric: true, show: (row) => html`<span class="nowrap">${row.from_epoch + 1} to ${row.to_epoch}</span>`, value: (row) => row.from_epoch },
  { key: "model_number", label: "Trained by model", numeric: true },
  { key: "changes", label: "What changed", unsorted: true, isText: true, show: (row) => Object.entries(row.changes).map(([name, [before, after]]) => `${nameOfValue(name)} ${short(before)} → ${short(after)}`).join(", ") || "–" },
  { key: "reason", label: "Why it began", unsorted: true, isText: true, show: (row) => html`${row.reason}${row.has_best_epoch && html` <span class="state good">kept weights</span>`}` },
];

function Segments({ lineage }) {
  return html`<${Table} caption=${`Segments of the lineage of model ${lineage.model_number}`} columns=${SEGMENTS} rows=${lineage.segments} rowKey=${(row) => row.from_epoch} />`;
}
