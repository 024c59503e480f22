// The points of a plot as a table, one row each: what a reader needs to draw it again.

const FORMULA = /^(?:[=@\t\r]|[+-](?![\w.]*$))/; // a spreadsheet would compute such a text

const plain = (text) => String(text ?? "").replace(/<br>/g, " ");

function cellOf(value) {
  if (value === null || value === undefined || Number.isNaN(value)) return "";
  if (typeof value === "number") return String(value);
  const text = FORMULA.test(value) ? `'${value}` : String(value);
  return /[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

/** Return the titles of the axes of a trace. Panels in a row or column share the title that one of them has. */
function titlesOf(trace, layout) {
  const text = (axis) => plain(axis?.title?.text);
  if (trace.type === "scatter3d") return ["x", "y", "z"].map((letter) => text(layout[trace.scene ?? "scene"]?.[`${letter}axis`]) || letter);
  return ["x", "y"].map((letter) => {
    const own = text(layout[`${letter}axis${(trace[`${letter}axis`] ?? letter).slice(1)}`]);
    return own || Object.keys(layout).filter((key) => key.startsWith(`${letter}axis`)).map((key) => text(layout[key])).find(Boolean) || letter;
  });
}

/** Return a row for each line of parallel coordinates. `raw` of a dimension has its values if it draws their logarithms. */
function linesOf({ dimensions }) {
  return dimensions[0].values.map((_, at) => Object.fromEntries(dimensions.map(({ label, values, raw = values }) => [plain(label), raw[at]])));
}

/**
 * Return a row for each point of a trace.
 *
 * `meta` of a trace gives further columns: { name: value or list }. Its `quantity` is what the values are, in place of the
 * title of the axis; its `rows` name the rows of a heat map. Its `whole` returns {x, y, z, columns} of all points, if fewer are
 * drawn.
 */
function pointsOf(trace, layout) {
  const { type, name, meta } = trace;
  const { quantity: given, rows, whole, ...drawn } = meta ?? {};
  const { x, y, z, columns: beside } = whole ? whole() : { ...trace, columns: drawn };
  const [xTitle, yTitle, zTitle] = titlesOf(trace, layout);
  const quantity = given ?? yTitle;
  if (type === "heatmap") return Array.from(z, (row, at) => Array.from(row, (value, bin) => ({ series: rows?.[at] ?? y?.[at] ?? at, ...beside, [xTitle]: x[bin], quantity, value }))).flat();
  const series = name ? { series: plain(name) } : {};
  const columns = Object.entries(beside);
  return Array.from(x, (value, at) => ({
    ...series, ...Object.fromEntries(columns.map(([key, values]) => [key, Array.isArray(values) ? values[at] : values])), [xTitle]: value,
    ...(type === "scatter3d" ? { [yTitle]: y[at], [zTitle]: z[at] } : { quantity, value: y[at] }),
  })).filter((row) => row[xTitle] !== null && !Number.isNaN(row[xTitle])); // a gap between two lines
}

/** Return the points of a plot of Plotly as CSV. What only decorates (`hoverinfo: "skip"`) or marks points of other traces is left out. */
export function csvOf({ data, layout }) {
  const rows = data.filter(({ hoverinfo, meta }) => hoverinfo !== "skip" && !meta?.isMark).flatMap((trace) => (trace.type === "parcoords" ? linesOf(trace) : pointsOf(trace, layout)));
  const quantities = new Set(rows.map(({ quantity }) => quantity));
  const [only] = quantities.size === 1 ? quantities : [undefined];
  const columns = new Set(rows.flatMap((row) => Object.keys(row)));
  if (only !== undefined) columns.delete("quantity");
  const header = [...columns].map((column) => (column === "value" && only !== undefined ? only : column));
  return [header.map(cellOf), ...rows.map((row) => [...columns].map((column) => cellOf(row[column])))].map((cells) => cells.join(",")).join("\r\n");
}
