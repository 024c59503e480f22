// Add a recording: drop a file, watch it arrive, and go on to what was understood; or try the service with data of its own.

import { html, useEffect, useRef, useState, Action, Field, Link, Problem, Progress, State, useReady, useTitle } from "../ui.js";
import { ifMay, request, useDocument, useLoaded } from "../api.js";
import { go } from "../router.js";
import { bytes, duration, plural } from "../format.js";
import { add, assetFile, cancel, dismiss, forget, limits, retry, unfinished, useUploads } from "../uploads.js";

const FORMATS = [
  ["NWB 2", "spike times of units, trials, events, behaviour (.nwb)"],
  ["MATLAB", "arrays of counts, or cells of spike times, v4 to v7.3 (.mat)"],
  ["NumPy, pynapple, SpikeInterface", "arrays of np.savez, TsGroup, a sorting (.npz)"],
  ["HDF5", "of lfads-torch, of the Neural Latents Benchmark, or with arrays of any name (.h5)"],
  ["Tables", "a row for each spike or bin, or a column for each neuron (.csv, .parquet)"],
  ["Phy and Kilosort", "the folder of a sorting, as a ZIP"],
  ["Acquisition systems", "Blackrock NEV, Plexon PLX, Neuralynx (ZIP), NeuroExplorer NEX, Spike2 SMR"],
];

function DropZone({ onFiles }) {
  const input = useRef(null);
  const [isOver, setOver] = useState(false);
  const take = (event) => {
    event.preventDefault();
    setOver(false);
    const files = [...event.dataTransfer.files].filter((file) => file.size > 0 || file.type || /\.\w+$/.test(file.name)); // a folder has no bytes
    if (files.length) onFiles(files);
  };
  useEffect(() => { // a file that misses the field would be opened in place of the page
    const ignore = (event) => event.preventDefault();
    const drop = (event) => { if (!event.defaultPrevented) take(event); };
    addEventListener("dragover", ignore);
    addEventListener("drop", drop);
    return () => { removeEventListener("dragover", ignore); removeEventListener("drop", drop); };
  });
  return html`<div class=${`drop ${isOver ? "over" : ""}`} onDragOver=${(event) => { event.preventDefault(); setOver(true); }} onDragLeave=${() => setOver(false)} onDrop=${take}>
    <p><b>Drop a file of spikes here</b></p>
    <p><button type="button" class="primary" onClick=${() => input.current.click()} ...${ifMay()}>Choose files…</button></p>
    <input ref=${input} type="file" multiple class="hidden" tabindex="-1" aria-label="Files of spikes" onChange=${(event) => { onFiles([...event.target.files]); event.target.value = ""; }} />
    <p class="muted small">Several files are sent one after the other. Pack a folder as a ZIP.</p>
  </div>`;
}

function Limits() {
  const { data } = useLoaded((signal) => limits(signal), []);
  if (!data) return null;
  const room = Math.min(data.storedRest ?? Infinity, data.uploadRest ?? Infinity);
  return html`<p class="muted small">${data.maxBytes ? `A file may have up to ${bytes(data.maxBytes)}. ` : ""}
    ${Number.isFinite(room) && html`Your group has room for ${bytes(room)} more (<${Link} to="/use">quotas<//>).`}</p>`;
}

/** What happens to a file at present, in words. */
function told(item, dataset) {
  const rest = item.bytesPerSecond > 0 ? (item.size - item.offset) / item.bytesPerSecond : null;
  const sent = `${bytes(item.offset)} of ${bytes(item.size)}`;
  if (item.state === "uploading" && item.isLast && rest !== null && rest < 1) return `${sent}; the service checks the file`;
  if (item.state === "uploading") return `${sent}${rest === null ? "" : `, ${bytes(item.bytesPerSecond)}/s, ${duration(rest)} left`}`;
  if (item.state === "waiting") return `${sent}. ${item.reason} The page tries again by itself; nothing that arrived is lost.`;
  if (item.state === "queued") return `${bytes(item.size)}; waits for the file before it`;
  if (item.state === "failed") return `${sent} arrived`;
  return { ingesting: "The service reads the file", ready: "Ready", rejected: "The service could not use the file; see why", failed: "The service could not read the file" }[dataset?.state] ?? "";
}

function Item({ item }) {
  const isOpen = item.dataset?.state === "ingesting";
  const live = useDocument(isOpen ? `/v1/datasets/${item.dataset.id}` : null, { everyMs: 1500 });
  const dataset = live.data ?? item.dataset;
  useEffect(() => { if (live.data && live.data.state !== "ingesting") item.dataset = live.data; }, [live.data]);
  return html`<li class="card upload">
    <div class="row"><b>${item.name}</b> <${State} value=${dataset?.state ?? item.state} />
      ${["uploading", "waiting"].includes(item.state) && html`<${Progress} fraction=${item.offset / item.size} label=${`Upload of ${item.name}`} />`}
      <span class="muted" role="status">${told(item, dataset)}</span>
      <span class="end buttons">
        ${dataset && html`<${Link} to=${`/datasets/${dataset.id}`} class="button">Look at it<//>`}
        ${item.state === "failed" && html`<button type="button" onClick=${() => retry(item)}>Try again</button>`}
        ${dataset || item.state === "failed"
    ? html`<button type="button" aria-label=${`Take ${item.name} from the list`} onClick=${() => dismiss(item)}>Close</button>`
    : html`<button type="button" aria-label=${`Cancel the upload of ${item.name}`} onClick=${() => cancel(item)}>Cancel</button>`}</span></div>
    ${item.isKnown && html`<p class="muted">This file was uploaded before. The service shows the data set that it made then.</p>`}
    <${Problem} error=${item.state === "failed" ? item.error : null} />
  </li>`;
}

function Unfinished({ uploads }) {
  if (!uploads.length) return null;
  return html`<div class="warning"><strong>${plural(uploads.length, "upload")} not complete</strong>
    <ul>${uploads.map((upload) => html`<li key=${upload.id}><b>${upload.name}</b>: ${bytes(upload.offset)} of ${bytes(upload.size)} arrived. Choose the same file again to continue.
      <button type="button" class="plain" onClick=${() => forget(upload)}>Delete what arrived</button></li>`)}</ul></div>`;
}

const SYSTEMS = {
  lorenz: { label: "Lorenz attractor", says: "Neurons follow three smooth latent variables. The classic first test.", fields: { conditions: 10, trials_per_condition: 12, bins: 50, neurons: 30 } },
  chaotic_rnn: { label: "Chaotic network", says: "Neurons are units of a chaotic recurrent network. Harder.", fields: { conditions: 10, trials_per_condition: 12, bins: 100, neurons: 50 } },
  driven: { label: "Network with inputs", says: "The same kind of network, with pulses at unknown times that a model must infer.", fields: { conditions: 10, trials_per_condition: 12, bins: 100, neurons: 50 } },
};
const FIELDS = { conditions: ["Conditions", 1000], trials_per_condition: ["Trials in each condition", 1000], bins: ["Bins (10 ms) in each trial", 2000], neurons: ["Neurons", 2000] };

function Synthetic() {
  const [system, setSystem] = useState("lorenz");
  const [values, setValues] = useState({});
  const fields = { ...SYSTEMS[system].fields, ...values };
  const run = async () => {
    const dataset = await request("/v1/datasets:synthesize", { method: "POST", json: { system, ...fields } });
    go(`/datasets/${dataset.id}`);
  };
  return html`<div class="card"><h3>Synthetic spikes with known rates</h3>
    <p class="muted">Since the true rates are known, you can see how well a model finds them.</p>
    <${Field} label="System" help="How the spikes are made.">${(attributes) => html`<select value=${system} onChange=${(event) => { setSystem(event.target.value); setValues({}); }} ...${attributes}>
      ${Object.entries(SYSTEMS).map(([key, { label }]) => html`<option value=${key}>${label}</option>`)}</select>`}<//>
    <p class="small">${SYSTEMS[system].says}</p>
    <div class="small-fields">${Object.entries(FIELDS).map(([key, [label, most]]) => html`<${Field} label=${label}>${(attributes) => html`<input type="number" min=${key === "trials_per_condition" || key === "bins" ? 2 : 1} max=${most}
      value=${fields[key]} onInput=${(event) => setValues({ ...values, [key]: Number(event.target.value) })} ...${attributes} />`}<//>`)}</div>
    <${Action} run=${run} ...${ifMay()}>Make the data set<//></div>`;
}

export default function Add({ caller }) {
  const items = useUploads();
  useTitle("Add a recording");
  useReady(true);
  const take = (files) => {
    const isAlone = files.length === 1 && items.every((item) => item.dataset || item.state === "failed");
    add(files, isAlone ? ({ dataset, isKnown }) => { if (location.hash.startsWith("#/add")) go(`/datasets/${dataset.id}`, { known: isKnown ? 1 : null }); } : undefined);
  };
  if (caller?.share) return html`<h1>Add a recording</h1><p>A shared link is for looking only. Ask for a key to add a recording.</p>`;
  return html`<h1>Add a recording</h1>
    <p>Give the file you have: spike counts, or spike times of sorted units. The service recognises the format and says what it understood.
      You can correct each guess afterwards, without another upload.</p>
    <${DropZone} onFiles=${take} />
    <${Limits} />
    <${Unfinished} uploads=${unfinished()} />
    ${items.length > 0 && html`<h2>Files of this tab</h2><ul class="plain-list">${items.map((item) => html`<${Item} key=${item.key} item=${item} />`)}</ul>`}
    <details><summary>Formats</summary><dl class="facts">${FORMATS.map(([name, says]) => html`<dt>${name}</dt><dd>${says}</dd>`)}</dl>
      <p>The content decides, not the name of the file. Raw voltages are not read: sort the spikes first.</p></details>
    <h2>No recording at hand?</h2>
    <div class="grid"><div class="card"><h3>Sample reaches</h3>
      <p class="muted">120 reaches in 8 directions, 36 neurons, 20 ms bins, with hand movement, go cue and movement onset. A quick search takes minutes.</p>
      <${Action} class="primary" run=${async () => take([await assetFile("sample.npz", "sample-reaches.npz")])} ...${ifMay()}>Use the sample<//></div>
    <${Synthetic} /></div>`;
}
