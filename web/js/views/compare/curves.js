// Learning curves of several models in one plot.

import { html, Loading, Problem, useMemo, useState } from "../../ui.js";
import { request, useLoaded } from "../../api.js";
import { Plot } from "../../plot.js";

const KINDS = [["sv_loss", "SV loss (nats per sample)"], ["smoothed_sv_loss", "Smoothed SV loss (nats per sample)"], ["validation_loss", "Validation loss (nats per sample)"], ["sv_bits_per_spike_valid", "Bits per spike"], ["train_loss", "Training loss (nats per sample)"]];

export function Curves({ models }) {
  const [kind, setKind] = useState("sv_loss");
  const found = useLoaded((signal) => Promise.all(models.map(({ model }) => request(`/v1/models/${model.id}/learning_curve`, { signal }))), [models.map(({ model }) => model.id)]);
  const [, label] = KINDS.find(([key]) => key === kind);
  const figure = useMemo(() => found.data && {
    traces: models.map(({ name, colour, dash }, index) => ({
      type: "scatter", mode: "lines", x: found.data[index].points.map(({ epoch }) => epoch), y: found.data[index].points.map((point) => point[kind]), name, line: { color: colour, dash, width: 1.8 },
      hovertemplate: `${name}<br>epoch %{x}<br>%{y:.5~g}<extra></extra>`,
    })),
    layout: { xaxis: { title: { text: "Epoch" }, type: "log" }, yaxis: { title: { text: label } }, legend: { orientation: "h", y: -0.22 }, uirevision: kind },
  }, [found.data, kind]);
  return html`<p><label>Curve <select value=${kind} onChange=${(event) => setKind(event.target.value)}>${KINDS.map(([key, text]) => html`<option value=${key}>${text}</option>`)}</select></label></p>
    <${Problem} error=${found.error} retry=${found.reload} />
    ${!found.data && !found.error && html`<${Loading} what="the curves" />`}
    ${figure && html`<${Plot} title=${label.replace(/ \(.*/, "")} traces=${figure.traces} layout=${figure.layout} height=${380} path=${`/v1/models/${models[0].model.id}/learning_curve`} formats=${[]} />`}`;
}
