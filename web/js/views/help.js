// Help: what the words and the numbers mean.

import { html, Link, useReady, useTitle } from "../ui.js";

const WORDS = [
  ["Data set", "Spike counts of trials × bins × neurons, with what is known of each trial. The service makes it from your file and tells you what it understood."],
  ["Job", "One search: a data set, a preset or your own ranges, and a budget. It trains several models and selects one."],
  ["Model", "One candidate of a job: hyperparameters, weights, learning curve and scores."],
  ["Latents", "What a model infers from the spikes of each trial: firing rates, factors, initial conditions and inputs."],
  ["Coordinated dropout (CD)", "In each training step the model does not see some of the samples, and only these count in the loss. A model cannot learn to pass a spike from input to output."],
  ["Sample validation (SV)", "Some samples, spread over all trials, are never given to the model. How well it predicts them tells good models from those that copy their input."],
  ["SV loss", "The loss on these samples, in nats per sample. Lower is better. Ordinary validation loss can fall while SV loss rises: such a model leaks."],
  ["Bits per spike", "How much better the rates predict held-out spikes than the mean rate of each neuron does. 0 is no better; higher is better."],
  ["Leak", "A model that copies each spike to its rates. Its validation loss looks good, and its rates are wrong. The service marks such models and does not select them."],
  ["Split", "Trials for training, for validation (to choose a model) and for tests (seen by nothing)."],
];

const STEPS = [
  ["/add", "Add a recording", "Drop a file. The page shows what was understood. Correct what is wrong; you need not upload again."],
  ["/search", "Start a search", "The preset “quick” gives a first result in minutes. The page tells the expected time before you start."],
  ["/", "Watch the job", "Curves appear while the models train. You can pause, stop or extend a job, and close the page: the job goes on."],
  ["/", "Look at latents", "Open the selected model: single trials, trajectories in 3-D, PSTHs, scores and decoding."],
  ["/compare", "Compare and share", "Put models side by side. Make a link for a colleague; it needs no key and has an end."],
];

export default function Help() {
  useTitle("Help");
  useReady(true);
  return html`<h1>Help</h1>
    <section class="card"><h2>From a recording to a figure</h2><ol>${STEPS.map(([to, title, text]) => html`<li><${Link} to=${to}>${title}<//>. ${text}</li>`)}</ol></section>
    <section class="card"><h2>Words</h2><dl class="facts words">${WORDS.map(([word, text]) => html`<dt><b>${word}</b></dt><dd>${text}</dd>`)}</dl></section>
    <section class="card"><h2>For programs</h2>
      <p>Everything on this page comes from the <a href="docs">HTTP API</a>. Every plot has a button “Save…” with its numbers, its picture, and the lines of Python, MATLAB and curl that fetch them.</p></section>
    <section class="card"><h2>Keys on the keyboard</h2><dl class="facts"><dt><kbd>Tab</kbd></dt><dd>Next control. The first one leads to the content.</dd>
      <dt><kbd>←</kbd> <kbd>→</kbd></dt><dd>Previous and next trial of a model.</dd><dt><kbd>Esc</kbd></dt><dd>Close a dialog or a help.</dd></dl></section>
    <section class="card"><h2>Methods</h2><p>Pandarinath et al. 2018, <a href="https://doi.org/10.1038/s41592-018-0109-9" rel="noreferrer">LFADS</a>.
      Keshtkaran and Pandarinath 2019, <a href="https://doi.org/10.48550/arXiv.1908.07896" rel="noreferrer">coordinated dropout and sample validation</a>.
      Please cite them when you publish results.</p></section>`;
}
