// Trajectories of several models, rotated into the space of the first: together, or side by side with one camera.

import { html, Loading, Problem, useMemo, useReady, useRef } from "../../ui.js";
import { request, useLoaded } from "../../api.js";
import { Plot, colourOf, dashOf, useTheme } from "../../plot.js";
import { percent } from "../../format.js";
import { setQuery } from "../../router.js";
import { useNarrow } from "../model/controls.js";
import { conditionOf, sessionsOf, spoken } from "../model/owner.js";

const COLUMNS = 3;

export function Space({ models, query }) {
  const by = conditionOf(models[0].owner, sessionsOf(models[0].owner)[0]);
  const rotation = query.rotation === "cca" ? "cca" : "procrustes";
  const isTogether = query.space !== "beside";
  const plot = useRef(null);
  const found = useLoaded((signal) => Promise.all(models.map((one, index) => request(`${one.owner.path}/arrays/factors`, { signal, query: queryOf(models, index, by, rotation) }))), [models.map(({ model }) => model.id), by, rotation]);
  const theme = useTheme();
  const isNarrow = useNarrow();
  const figure = useMemo(() => found.data && figureOf(models, found.data, { by, isTogether, isNarrow }), [found.data, isTogether, isNarrow, theme]);
  useReady(figure || found.error);
  const follow = useMemo(() => ({ plotly_relayout: (event) => linkCameras(plot.current, event) }), []);
  const choice = (name) => (event) => setQuery({ [name]: event.target.value || null });
  return html`<div class="row"><label>Show <select value=${isTogether ? "" : "beside"} onChange=${choice("space")}><option value="">together, a colour for each model</option><option value="beside">side by side, a colour for each condition</option></select></label>
      <label>Map <select value=${rotation} onChange=${choice("rotation")}><option value="procrustes">rotation and one scale (Procrustes)</option><option value="cca">any linear map (CCA)</option></select></label></div>
    <${Problem} error=${found.error} retry=${found.reload} />
    ${!found.data && !found.error && html`<${Loading} what="the trajectories" />`}
    ${found.data && html`<ul>${models.slice(1).map(({ letter }, index) => html`<li>The factors of ${letter} explain <b>${percent(found.data[index + 1].attributes.variance_explained)}</b> of the variance of the factors of ${models[0].letter}.</li>`)}</ul>`}
    ${figure && html`<${Plot} title=${`Factors averaged by ${spoken(by ?? "part of the split")}, in principal components of ${models[0].letter}`} note="circles: starts · letters: models" traces=${figure.traces} layout=${figure.layout} height=${figure.height}
      path=${`${models.at(-1).owner.path}/arrays/factors`} query=${queryOf(models, models.length - 1, by, rotation)} plotRef=${plot} on=${follow} />`}`;
}

function queryOf(models, index, by, rotation) {
  return { average: by ?? "split", format: "json", ...(index ? { rotate_to: models[0].model.id, rotation } : {}) };
}

/** Turn all scenes as one. */
function linkCameras({ element, Plotly }, event) {
  const [key, camera] = Object.entries(event).find(([name]) => /^scene\d*\.camera$/.test(name)) ?? [];
  if (!key || element.isLinking) return;
  const others = Object.keys(element.layout).filter((name) => /^scene\d*$/.test(name) && `${name}.camera` !== key);
  if (!others.length) return;
  element.isLinking = true;
  Plotly.relayout(element, Object.fromEntries(others.map((name) => [`${name}.camera`, camera]))).finally(() => { element.isLinking = false; });
}

/** Return the mean and the first three principal axes of points, by power iteration: there are few factors. */
export function axesOf(points) {
  const size = points[0].length;
  const mean = Array.from({ length: size }, (_, at) => points.reduce((sum, point) => sum + point[at], 0) / points.length);
  const covariance = Array.from({ length: size }, (_, a) => Array.from({ length: size }, (_unused, b) => points.reduce((sum, point) => sum + (point[a] - mean[a]) * (point[b] - mean[b]), 0)));
  const axes = [];
  for (let axis = 0; axis < Math.min(3, size); axis += 1) {
    let vector = Array.from({ length: size }, (_, at) => 1 / (1 + at));
    for (let step = 0; step < 200; step += 1) {
      let next = covariance.map((row) => row.reduce((sum, value, at) => sum + value * vector[at], 0));
      for (const other of axes) {
        const along = next.reduce((sum, value, at) => sum + value * other[at], 0);
        next = next.map((value, at) => value - along * other[at]);
      }
      const length = Math.hypot(...next) || 1;
      vector = next.map((value) => value / length);
    }
    axes.push(vector);
  }
  return { mean, axes };
}

function figureOf(models, arrays, { by, isTogether, isNarrow }) {
  const points = arrays[0].values.flat().filter((point) => point[0] !== null);
  const { mean, axes } = axesOf(points);
  const project = (point) => (point[0] === null ? [null, null, null] : [0, 1, 2].map((axis) => (axes[axis] ? point.reduce((sum, value, at) => sum + (value - mean[at]) * axes[axis][at], 0) : 0)));
  const conditions = arrays[0].coordinates[arrays[0].dims[0]].values;
  const far = isNarrow ? 1.75 : 1; // so that the titles of the axes fit
  const scene = { aspectmode: "data", camera: { eye: { x: 1.4 * far, y: 1.4 * far, z: 0.9 * far }, center: { x: 0, y: 0, z: -0.1 } }, ...Object.fromEntries(["x", "y", "z"].map((name, index) => [`${name}axis`, { title: { text: `PC ${index + 1}` } }])) };
  const rows = Math.ceil(models.length / COLUMNS);
  const layout = { margin: { l: 0, r: 0, t: 20, b: 0 }, legend: { x: 0, y: 1, title: { text: isTogether ? "" : spoken(by ?? "part") } }, annotations: [], uirevision: `${isTogether} ${isNarrow}` };
  const traces = [];
  models.forEach((one, index) => {
    const name = isTogether || !index ? "scene" : `scene${index + 1}`;
    if (isTogether) layout.scene = scene;
    else Object.assign(layout, besideOf(layout, name, scene, index, rows, models.length, one));
    const paths = arrays[index].values.map((trajectory) => trajectory.map(project));
    if (isTogether) traces.push({ ...lineOf(paths, name), meta: { condition: paths.flatMap((path, at) => Array(path.length + 1).fill(conditions[at])) }, name: one.name, line: { color: one.colour, width: 5 } });
    else paths.forEach((path, at) => traces.push({ ...lineOf([path], name), meta: { model: one.name }, name: String(conditions[at]), legendgroup: String(conditions[at]), showlegend: index === 0, line: { color: colourOf(at, paths.length), width: 5, dash: dashOf(at, paths.length) } }));
    const starts = paths.map((path) => path.find(([x]) => x !== null) ?? [null, null, null]);
    if (isTogether) traces.push(lettersOf(paths, one, name));
    traces.push({ type: "scatter3d", mode: "markers", scene: name, showlegend: false, hoverinfo: "skip", x: starts.map(([x]) => x), y: starts.map(([, y]) => y), z: starts.map(([, , z]) => z), marker: { size: 4, color: isTogether ? one.colour : starts.map((_, at) => colourOf(at, starts.length)) } });
  });
  return { traces, layout, height: isTogether ? 560 : 60 + 380 * rows };
}

function besideOf(layout, name, scene, index, rows, count, { letter }) {
  const columns = Math.min(COLUMNS, count);
  const [column, row] = [index % COLUMNS, Math.floor(index / COLUMNS)];
  const [left, right] = [(column + 0.06) / columns, (column + 1) / columns];
  const [bottom, top] = [1 - (row + 1) / rows, 1 - row / rows - 0.02];
  layout.annotations.push({ xref: "paper", yref: "paper", x: (left + right) / 2, y: top, yanchor: "bottom", text: letter, showarrow: false, font: { size: 14 } });
  return { [name]: { ...scene, domain: { x: [left, right], y: [bottom, top] } } };
}

/** Write the letter of a model where its trajectories are farthest from the middle, so that colours are not needed to tell models apart. */
function lettersOf(paths, { letter, colour }, scene) {
  const far = paths.map((path) => path.filter(([x]) => x !== null).reduce((best, point) => (Math.hypot(...point) > Math.hypot(...best) ? point : best), [0, 0, 0]));
  return { type: "scatter3d", mode: "text", scene, showlegend: false, hoverinfo: "skip", x: far.map(([x]) => x), y: far.map(([, y]) => y), z: far.map(([, , z]) => z), text: far.map(() => letter), textfont: { color: colour, size: 13 } };
}

function lineOf(paths, scene) {
  const points = paths.flatMap((path) => [...path, [null, null, null]]);
  return { type: "scatter3d", mode: "lines", scene, connectgaps: false, x: points.map(([x]) => x), y: points.map(([, y]) => y), z: points.map(([, , z]) => z), hoverinfo: "name" };
}
