// The table of the models of a job: sort, hide, choose some to compare.

import { html, useMemo, Link, State, Table } from "../../ui.js";
import { go, setQuery } from "../../router.js";
import { number } from "../../format.js";
import { nameOfValue, packNumbers, short, unpackNumbers, valueOf } from "./words.js";

const MOST_COMPARED = 6;

/** Return columns of a table of models. */
function columnsOf({ searched, leaks, hidden, chosen }) {
  const stop = (event) => event.stopPropagation();
  const toggle = (name, numbers, number) => {
    const next = new Set(numbers);
    if (!next.delete(number)) next.add(number);
    setQuery({ [name]: packNumbers(next) });
  };
  const score = (key, label, help, digits) => ({ key, label, help, numeric: true, value: (model) => model.scores[key], show: (model) => number(model.scores[key], digits) });
  return [
    { key: "choose", label: html`<span class="hidden">Compare</span>`, unsorted: true, show: (model) => html`<input type="checkbox" aria-label=${`Choose model ${model.number}`} checked=${chosen.has(model.number)}
      disabled=${!chosen.has(model.number) && chosen.size >= MOST_COMPARED} onClick=${stop} onChange=${() => toggle("pick", chosen, model.number)} />` },
    { key: "number", label: "Model", numeric: true, show: (model) => html`<${Link} to=${`/models/${model.id}`}>${model.number}<//>` },
    { key: "state", label: "State", show: (model) => html`<span title=${model.end_reason ?? ""}><${State} value=${model.state} /></span>${model.is_selected && html` <span class="state good">selected</span>`}
      ${leaks.has(model.number) && html` <span class="state bad" title=${leaks.get(model.number).text}>${leaks.get(model.number).kind === "suspected" ? "may leak" : "leaks"}</span>`}` },
    score("sv_bits_per_spike_valid", "Bits per spike", "Gain over constant rates on held-out samples of validation trials. Higher is better.", 3),
    score("sv_loss", "SV loss", "Loss on held-out samples with the kept weights, of one epoch, in nats per sample. Lower is better. The search selects by its average over this and earlier epochs, the smoothed SV loss.", 4),
    score("validation_loss", "Validation loss", "Loss on samples that the model reads, with the kept weights, in nats per sample. It misses leaks.", 4),
    { key: "epochs_trained", label: "Epochs", numeric: true, show: (model) => model.epochs_trained },
    ...searched.map(({ name }) => ({ key: name, label: nameOfValue(name), numeric: true, value: (model) => valueOf(model, name), show: (model) => short(valueOf(model, name)) })),
    { key: "hide", label: html`<span class="hidden">Hide</span>`, unsorted: true, show: (model) => html`<button type="button" class="plain" aria-pressed=${hidden.has(model.number)}
      aria-label=${`Hide model ${model.number}`} onClick=${(event) => { stop(event); toggle("hide", hidden, model.number); }}>${hidden.has(model.number) ? "hidden" : "hide"}</button>` },
  ];
}

/** Return the models that are not hidden. */
export function useShown(models, query) {
  return useMemo(() => {
    const hidden = unpackNumbers(query.hide);
    return hidden.size && models ? models.filter((model) => !hidden.has(model.number)) : models;
  }, [models, query.hide]);
}

export function Models({ models, searched, leaks, query }) {
  const hidden = useMemo(() => unpackNumbers(query.hide), [query.hide]);
  const chosen = useMemo(() => unpackNumbers(query.pick), [query.pick]);
  const columns = useMemo(() => columnsOf({ searched, leaks, hidden, chosen }), [searched, leaks, hidden, chosen]);
  const compared = models.filter((model) => chosen.has(model.number)).map((model) => model.id);
  const hideBut = (count) => {
    const ranked = models.filter((model) => Number.isFinite(model.scores.smoothed_sv_loss)).sort((a, b) => a.scores.smoothed_sv_loss - b.scores.smoothed_sv_loss);
    const kept = new Set(ranked.slice(0, count).map((model) => model.number));
    setQuery({ hide: packNumbers(models.map((model) => model.number).filter((one) => !kept.has(one))) });
  };
  const [key, direction] = (query.sort ?? "sv_bits_per_spike_valid:down").split(":");
  return html`<section aria-label="Models">
    <div class="row"><h2>Models</h2><span class="buttons end">
      ${leaks.size > 0 && html`<button type="button" onClick=${() => setQuery({ hide: packNumbers([...hidden, ...leaks.keys()]) })}>Hide leaking models</button>`}
      ${models.length > 10 && html`<button type="button" onClick=${() => hideBut(10)}>Show the best 10 only</button>`}
      ${hidden.size > 0 && html`<button type="button" onClick=${() => setQuery({ hide: null })}>Show all (${hidden.size} hidden)</button>`}
      ${compared.length > 1 ? html`<${Link} class="button primary" to="/compare" query=${{ models: compared.join(",") }}>Compare ${compared.length} models<//>`
    : html`<span class="muted small">Tick two to six models to compare them.</span>`}</span></div>
    <${Table} caption="Models of the job" columns=${columns} rows=${models} most=${100} initial=${{ key, descending: direction === "down" }}
      onSort=${({ key: by, descending }) => setQuery({ sort: `${by}:${descending ? "down" : "up"}` })} onRow=${(model) => go(`/models/${model.id}`)} />
  </section>`;
}
