// The options for reading a file: their fields, and the changes that guesses, warnings and the form propose.
//
// A draft has the changed options by path, such as { "mapping.axes": ["neuron", "bin", "trial"], "rebin_s": null }. Null is the default.

const UNITS = [["", "as the file says"], ["s", "seconds"], ["ms", "milliseconds"], ["us", "microseconds"], ["samples", "samples"]];
const ROLES = ["trial", "bin", "neuron"];
const ORDERS = [["trial", "bin", "neuron"], ["trial", "neuron", "bin"], ["bin", "trial", "neuron"], ["bin", "neuron", "trial"], ["neuron", "trial", "bin"], ["neuron", "bin", "trial"]];

export const saidOrder = (order) => order.map((role) => `${role}s`).join(" × ");

/** Groups of [path, label, kind, help, choices]. Kinds: choice, ms, number, name, names, pair, ids, json, order. */
export const GROUPS = [
  ["File and time", [
    ["format", "Format", "choice", "The content of the file decides. Choose only if it was taken for another format.",
      [["", "recognise it"], ...["npz", "lfads_hdf5", "nlb_hdf5", "hdf5", "nwb", "matlab", "csv", "parquet", "phy", "neo"].map((name) => [name, name])]],
    ["bin_width_s", "Bin width", "ms", "For counts: the width of their bins, if the file does not state it. For spike times: the bins to count them in, by default 10 ms."],
    ["rebin_s", "Add up bins to", "ms", "For counts: neighbouring bins are added up to this width, a multiple of their own."],
    ["time_unit", "Unit of all times", "choice", "Unit of spike times, trials, events and behaviour.", UNITS],
    ["spike_time_unit", "Unit of spike times", "choice", "Only if it differs from that of trials and events.", UNITS],
    ["trial_time_unit", "Unit of trial times", "choice", "Of the times of trials and events, only if it differs from that of spikes.", UNITS],
    ["sampling_rate_hz", "Sampling rate (Hz)", "number", "For times in samples, if the file does not state it. Most systems have 30000."],
  ]],
  ["Which variable is what", [
    ["mapping.spikes", "Spike counts", "names", "Trials × bins × neurons. Several names, separated by commas, join their trials."],
    ["mapping.axes", "Axes of the counts", "order", "Order of the axes in the file."],
    ["mapping.spike_times", "Spike times", "name", "Times of spikes, or the table of units."],
    ["mapping.neuron", "Neuron of each spike", "name", "The array or column that says which neuron a spike, or a row, belongs to."],
    ["mapping.trial", "Trial of each spike", "name", "The array or column that says which trial a spike, or a row, belongs to."],
    ["mapping.trials", "Table of trials", "name", "Start, stop and metadata of trials."],
    ["mapping.bin", "Bin of each row", "name", "In tables: the column with the number of the bin, from 0."],
    ["mapping.time", "Time of each bin or spike", "name", "In tables of spikes: the column of spike times."],
    ["mapping.count", "Count of each row", "name", "In tables: the column with the number of spikes."],
    ["mapping.bin_width", "Bin width", "name", "The variable that has the width of a bin."],
    ["mapping.trial_length_bins", "Length of each trial", "name", "Recorded bins of each trial, where trials differ."],
    ["mapping.split", "Split", "name", "Train, valid or test for each trial."],
    ["mapping.true_rates", "True rates", "name", "Of synthetic spikes."],
    ["mapping.external_inputs", "Known inputs", "name", "Trials × bins × inputs."],
    ["mapping.behaviour", "Behaviour", "names", "Names to keep, separated by commas; all by default, [] for none."],
    ["mapping.trial_metadata", "Metadata of trials", "names", "Names to keep, separated by commas; all by default, [] for none."],
    ["mapping.neuron_metadata", "Metadata of neurons", "names", "Names to keep, separated by commas; all by default, [] for none."],
  ]],
  ["Trials", [
    ["trials.align_to", "Align trials to", "name", "For spike times: the event at time 0, a column of the trials or a series of events."],
    ["trials.align_to_clock", "Clock of that event", "choice", "Whether its times count in the session or from the start of each trial.", [["", "find out"], ["session", "the session"], ["trial", "each trial"]]],
    ["trials.window_s", "Window around time 0 (s)", "pair", "Start and end in seconds, such as -0.25, 0.75. The whole trial by default."],
    ["trials.overlap", "Trials that overlap", "choice", "What happens with a trial that begins before the one before it ends.", [["", "keep them"], ["drop", "leave out the later one"], ["cut", "cut the earlier one"]]],
    ["trials.ids", "Ids of trials", "ids", "Where each spike names its trial: sorted, file, or the first and last id, such as 1, 40."],
    ["trials.unobserved", "Times that were not observed", "choice", "What happens with times that the file excludes.", [["", "mark them as missing"], ["drop", "leave such trials out"], ["keep", "use the counts as they are"]]],
    ["trials.where", "Keep trials with", "json", 'Conditions on metadata as JSON, such as {"outcome": "success", "reaction_time": {"min": 0.1}}.'],
  ]],
  ["Neurons", [
    ["neurons.minimum_rate_hz", "Least mean rate (spikes/s)", "number", "Neurons that fire less are left out."],
    ["neurons.where", "Keep neurons with", "json", 'Conditions on metadata as JSON, such as {"quality": "good"}.'],
  ]],
  ["Windows", [
    ["chop.window_s", "Length of a window (s)", "number", "Long trials, and recordings without trials, are cut into windows."],
    ["chop.overlap_s", "Overlap of windows (s)", "number", "At most half a window. Results are merged again."],
  ]],
  ["Split", [
    ["split.kind", "Validation trials", "choice", "Which trials validate models.", [["", "those of the file, or drawn by each job"], ["trial", "draw at random"], ["condition", "draw equally from each condition"], ["time", "a block of time"]]],
    ["split.valid_fraction", "Fraction of validation trials", "number", "0.2 by default."],
    ["split.test_fraction", "Fraction of test trials", "number", "0 by default. Test trials give unbiased scores."],
    ["split.condition", "Conditions for the split", "name", "Metadata that define the conditions."],
    ["split.seed", "Seed of a drawn split", "number", "0 by default."],
    ["split.values", "Meaning of the file's split", "json", 'As JSON, such as {"1": "train", "2": "valid"}.'],
  ]],
];

export const FIELDS = new Map(GROUPS.flatMap(([, fields]) => fields).map((field) => [field[0], field]));
const [NEVER, RARE] = [1e-6, 0.1]; // spikes/s; a spike in eleven days is more than the first
const LEAVES = new Set(["trials.where", "neurons.where", "split.values"]);

/** Return the value of an option, or undefined. */
export function valueAt(options, path) {
  return path.split(".").reduce((value, key) => value?.[key], options ?? {});
}

/** Return the changes of a nested patch by path. */
export function flattened(patch, prefix = "") {
  return Object.assign({}, ...Object.entries(patch).map(([key, value]) => {
    const path = prefix + key;
    const isBranch = value && typeof value === "object" && !Array.isArray(value) && !LEAVES.has(path);
    return isBranch ? flattened(value, `${path}.`) : { [path]: value };
  }));
}

/** Return a JSON Merge Patch of a draft. */
export function patchOf(draft) {
  const patch = {};
  for (const [path, value] of Object.entries(draft)) {
    const keys = path.split(".");
    const last = keys.pop();
    let place = patch;
    for (const key of keys) place = (place[key] ??= {});
    place[last] = value;
  }
  return patch;
}

/** Return the text of a value in a field. */
export function textOf(kind, value) {
  if (value === null || value === undefined) return "";
  if (kind === "ms") return String(Number((1000 * value).toPrecision(9)));
  if (kind === "json") return JSON.stringify(value);
  if (Array.isArray(value)) return value.length || kind === "order" ? value.join(", ") : "[]";
  return String(value);
}

/** Return the value that a text means; null for the default. Throws an Error that says what was expected. */
export function valueOf(kind, text) {
  const trimmed = text.trim();
  if (trimmed === "") return null;
  const parts = trimmed.split(",").map((part) => part.trim()).filter(Boolean);
  if (kind === "number" || kind === "ms") {
    if (!Number.isFinite(Number(trimmed))) throw new Error(`Expected a number; got ${trimmed}.`);
    return kind === "ms" ? Number((Number(trimmed) / 1000).toPrecision(12)) : Number(trimmed);
  }
  if (kind === "pair" || (kind === "ids" && parts.length === 2)) {
    const numbers = parts.map(Number);
    if (numbers.length !== 2 || numbers.some((value) => !Number.isFinite(value))) throw new Error("Expected two numbers, separated by a comma.");
    return numbers;
  }
  if (kind === "order") return parts;
  if (kind === "names") return trimmed === "[]" ? [] : parts;
  if (kind === "json") {
    try { return JSON.parse(trimmed); } catch { throw new Error('Expected JSON, such as {"outcome": "success"}.'); }
  }
  return trimmed;
}

/** Return a change in words: "Bin width: 20 ms". */
export function saidChange(path, value) {
  const [, label, kind, , choices] = FIELDS.get(path) ?? [path, path, "name"];
  if (value === null) return `${label}: as found`;
  if (kind === "order") return `${label}: ${saidOrder(value)}`;
  const named = choices?.find(([key]) => key === value)?.[1];
  return `${label}: ${named ?? textOf(kind, value)}${kind === "ms" ? " ms" : ""}`;
}

/** Return how the file of a data set was read again: "read again with bin width 40 ms". */
export function readAgain({ options }) {
  const said = Object.entries(flattened(options ?? {})).map(([path, value]) => saidChange(path, value).replace(": ", " "));
  return `read again with ${said.map((text) => text[0].toLowerCase() + text.slice(1)).join(", ") || "the default options"}`;
}

/** Return the names of variables that the service has told about a file, for suggestions. */
export function knownNames({ report, problems }) {
  const names = new Set();
  for (const item of report?.understood ?? []) {
    names.add(item.variable);
    for (const other of item.alternatives) names.add(nameIn(other));
  }
  for (const key of ["trial_metadata", "neuron_metadata", "behaviour"]) for (const name of Object.keys(report?.[key] ?? {})) names.add(name);
  for (const problem of [...(problems ?? []), ...(report?.warnings ?? [])]) for (const name of [...quoted(problem.message), ...shaped(problem.message)]) names.add(name);
  return [...names].sort();
}

const nameIn = (alternative) => alternative.replace(/ \([^()]*\)$/, "");
const quoted = (text) => [...(text ?? "").matchAll(/`([^`]+)`/g)].map((match) => match[1]);

/** Return the paths of the options that a problem or a warning names. */
export function pathsIn({ pointer, message, hint }) {
  const text = `${hint} ${(pointer ?? "").slice(1).replaceAll("/", ".")} ${message}`;
  return [...FIELDS.keys()].filter((path) => new RegExp(`(^|[^\\w.])${path.replace(".", "\\.")}(?![\\w])`).test(text));
}

/** Return the JSON objects in a text. */
function objectsIn(text) {
  const found = [];
  for (let start = text.indexOf("{"); start >= 0; start = text.indexOf("{", start + 1)) {
    for (let end = text.indexOf("}", start); end >= 0; end = text.indexOf("}", end + 1)) {
      try {
        const json = text.slice(start, end + 1);
        found.push({ value: JSON.parse(json), json, before: text.slice(0, start) });
        start = end;
        break;
      } catch { /* not the end of this object yet */ }
    }
  }
  return found;
}

/** Return the names in "a (40, 30), b (40, 30)". */
const shaped = (text) => [...text.matchAll(/(\S+) \(\d+(?:, \d+)*,?\)/g)].map((match) => match[1].replaceAll("`", ""));

const choice = (changes) => ({ changes, label: Object.entries(changes).map(([path, value]) => saidChange(path, value)).join("; ") });

/**
 * Return what would mend a problem or answer a warning: [{ label, changes }].
 *
 * Messages and hints name options and values as the API has them, so this reads them there.
 */
export function mendsOf(problem, dataset) {
  const { code, message = "", hint = "", pointer = "" } = problem;
  const text = `${message} ${hint}`;
  const found = [];
  for (const { value, before } of objectsIn(hint)) {
    const leaf = /(trials\.where|neurons\.where|split\.values)[^.{]*$/.exec(before)?.[1];
    const changes = leaf ? { [leaf]: value } : flattened(value);
    if (Object.keys(changes).every((path) => FIELDS.has(path))) found.push(choice(changes));
  }
  for (const [order] of hint.matchAll(/\["(?:trial|bin|neuron)"(?:, ?"(?:trial|bin|neuron)")+\]/g)) found.push(choice({ "mapping.axes": JSON.parse(order) }));
  for (const [path, , kind, , choices] of FIELDS.values()) {
    if (kind !== "choice" && kind !== "ids") continue;
    const known = kind === "ids" ? ["sorted", "file"] : choices.map(([key]) => key).filter(Boolean);
    const named = new RegExp(`(?<![\\w.])${path.replace(".", "\\.")}[:\\s"\`]+(${known.join("|")})\\b`, "g");
    for (const [, value] of hint.matchAll(named)) found.push(choice({ [path]: value }));
  }
  if (hint.includes("trials.align_to_clock")) found.push(...["session", "trial"].map((value) => choice({ "trials.align_to_clock": value })));
  if (/(^|\W)time_unit/.test(hint)) {
    for (const unit of quoted(hint)) if (UNITS.some(([key]) => key === unit)) found.push(choice(unit === "samples" ? { time_unit: unit, sampling_rate_hz: 30000 } : { time_unit: unit }));
  }
  if (code === "sampling_rate_missing") found.push(...[20000, 24414.0625, 30000].map((rate) => choice({ sampling_rate_hz: rate })));
  if (code === "bin_width_missing") found.push(...[0.001, 0.005, 0.01, 0.02, 0.05].map((width) => choice({ bin_width_s: width })));
  if (code === "silent_neurons") found.push(...leastRates(dataset));
  if (code === "window_needed") found.push(choice({ "trials.window_s": [-0.25, 0.75] }));
  found.push(...moves(problem, dataset), ...namesFor(pointer, text, dataset));
  return found.filter((item, index) => found.findIndex((other) => JSON.stringify(other.changes) === JSON.stringify(item.changes)) === index);
}

/** Rules that leave out neurons which never or hardly fire, with the number of neurons of each. */
function leastRates({ report }) {
  const offer = (count, rule, rate) => ({ label: `Leave out the ${count === undefined ? "" : `${count} `}neurons ${rule}`, changes: { "neurons.minimum_rate_hz": rate } });
  return [offer(report?.silent_neurons?.length, "that never fire", NEVER), offer(report?.rates_hz?.filter((rate) => rate < RARE).length, `under ${RARE} spikes/s`, RARE)];
}

/** `metadata_guessed`: take the variable for metadata of the other axis. Naming some leaves out the others, so all are named. */
function moves({ code, message, hint }, { report }) {
  if (code !== "metadata_guessed" || !report) return [];
  const [, kind] = /name it in mapping\.(\w+)_metadata/.exec(hint) ?? [];
  const [name] = quoted(message);
  if (!kind || !name) return [];
  return [{ label: `It belongs to ${kind}s`, changes: { [`mapping.${kind}_metadata`]: [...Object.keys(report[`${kind}_metadata`] ?? {}), name] } }];
}

/** A problem of one role (`/mapping/spikes`) names the variables that may have it. */
function namesFor(pointer, text, { options }) {
  const path = pointer.slice(1).replaceAll("/", ".");
  const field = FIELDS.get(path);
  if (!field || !path.startsWith("mapping.") || !["name", "names"].includes(field[2])) return [];
  const now = [valueAt(options, path)].flat();
  const isThere = text.replace(/(none is called|because it has) `[^`]+`/g, "$1"); // these are names that were looked for
  const names = [...new Set([...quoted(isThere), ...shaped(isThere)])].filter((name) => !now.includes(name)).slice(0, 8);
  const lists = path === "mapping.spikes" ? [...text.matchAll(/\["[^\]]+"\]/g)].map(([list]) => choice({ [path]: JSON.parse(list) })) : [];
  return [...names.map((name) => choice({ [path]: field[2] === "names" && path !== "mapping.spikes" ? [name] : name })), ...lists];
}

/** Return a hint with the names that options and their values have in the form. */
export function inWords(hint) {
  const named = PATHS.reduce((told, path) => told.replace(new RegExp(`(^|[^\\w."{])\`?${path.replace(".", "\\.")}\`?(?![\\w"])`, "g"), (_, before) => `${before}“${FIELDS.get(path)[1]}”`), withoutJson(hint));
  const said = [...FIELDS.values()].reduce((told, [, label, kind, , choices]) => (kind === "choice" ? withChoices(told, label, choices) : told), named);
  const takesMs = [...FIELDS.values()].some(([, label, kind]) => kind === "ms" && said.includes(`“${label}”`));
  return takesMs ? said.replace(/in seconds, such as (0\.\d+)/, (_, seconds) => `in milliseconds, such as ${textOf("ms", Number(seconds))}`) : said;
}

/** {"mapping": {"trials": "a"}} → “Table of trials: a” */
function withoutJson(hint) {
  return objectsIn(hint).reduce((told, { value, json }) => {
    const changes = Object.entries(flattened(value));
    return changes.every(([path]) => FIELDS.has(path)) ? told.replace(json, `“${changes.map(([path, item]) => saidChange(path, item)).join("; ")}”`) : told;
  }, hint);
}

/** “Trials that overlap” `drop` or `cut` → “Trials that overlap” “leave out the later one” or … */
function withChoices(text, label, choices) {
  return text.replace(new RegExp(`(“${label}”:? )((?:\`\\w+\`(?:, | or )?)+)`, "g"), (_, before, values) => before + values.replace(/`(\w+)`/g, (given, value) => {
    const found = choices.find(([key]) => key === value);
    return found ? `“${found[1]}”` : given;
  }));
}

const PATHS = [...FIELDS.keys()].sort((a, b) => b.length - a.length);

/** Return the order of the axes in the file, as it was read. */
function readOrder({ options, report }, shape) {
  const given = valueAt(options, "mapping.axes");
  if (given?.length === 3) return given;
  const confirmed = report.warnings.map(({ hint }) => /To confirm it: (\[[^\]]+\])/.exec(hint ?? "")?.[1]).find(Boolean);
  if (confirmed) return JSON.parse(confirmed);
  const length = { trial: report.shape.trials, bin: report.shape.bins, neuron: report.shape.neurons };
  return ORDERS.find((order) => order.every((role, index) => length[role] === shape[index])) ?? null;
}

const MAPPED = new Set(["spikes", "spike_times", "trials", "trial", "neuron", "bin", "time", "count"]);

/**
 * Return the guesses with their alternatives: [{ key, title, how, chosen, choices: [{ label, changes }] }]. The first choice is what was read.
 */
export function guessesOf(dataset) {
  const { report, options } = dataset;
  if (!report?.understood) return [];
  const guesses = [];
  const add = (key, title, how, now, others) => guesses.push({ key, title, how, choices: [{ label: now, changes: null }, ...others] });
  for (const item of report.understood) {
    if (!MAPPED.has(item.what) || !item.alternatives.length) continue;
    const title = FIELDS.get(`mapping.${item.what}`)[1];
    add(`${item.what} ${item.variable}`, title, item.how, item.shape.length ? `${item.variable} (${item.shape.join(", ")})` : item.variable, item.alternatives.map((other) => {
      const name = nameIn(other);
      const isEvent = item.what === "trials" && / events\)$/.test(other);
      return { label: isEvent ? `a trial around each event ${other}` : other,
        changes: isEvent ? { "mapping.trials": null, "trials.align_to": name, "trials.window_s": valueAt(options, "trials.window_s") ?? [-0.25, 0.75] } : { [`mapping.${item.what}`]: name } };
    }));
  }
  const spikes = report.understood.find((item) => item.what === "spikes" && item.shape.length === 3);
  const order = spikes && readOrder(dataset, spikes.shape);
  if (order) {
    add("axes", "Axes of the counts", `the file has ${spikes.shape.join(" × ")}`, saidOrder(order),
      ORDERS.filter((other) => String(other) !== String(order)).map((other) => ({ label: saidOrder(other), changes: { "mapping.axes": other } })));
  }
  return [...guesses, alignGuess(dataset), ...timeGuesses(dataset), splitGuess(dataset)].filter(Boolean);
}

/** Whether the file has times of spikes, not counts. */
function areTimesIn({ understood }) {
  const has = (...roles) => understood.some((item) => roles.includes(item.what));
  return has("spike_times") || (has("time") && !has("spikes", "count"));
}

const AROUND_S = [-0.25, 0.75];
const ARE_NOT_EVENTS = /^(start|stop)_time$|reaction|duration|latency|response_time/i;

/** Time 0 of trials that are cut from spike times: their start, or an event of the file. */
function alignGuess({ report, options }) {
  if (!areTimesIn(report) || report.chopped) return null;
  const now = valueAt(options, "trials.align_to");
  const columns = Object.entries(report.trial_metadata).filter(([name, { kind, distinct }]) => kind === "number" && distinct > 2 && /time|onset|offset|cue|move|touch|_s$|_ms$/i.test(name) && !ARE_NOT_EVENTS.test(name)).map(([name]) => name);
  const events = [...new Set([...columns, ...report.understood.filter(({ what }) => what === "events").map(({ variable }) => variable)])].filter((name) => name !== now);
  if (!now && !events.length) return null;
  const [from, to] = valueAt(options, "trials.window_s") ?? AROUND_S;
  return { key: "align", title: "Time 0 of a trial", path: "trials.window_s", how: now ? "given in the options" : "trials can be cut around an event",
    choices: [{ label: now ?? "the start of the trial", changes: null },
      ...(now ? [{ label: "the start of the trial", changes: { "trials.align_to": null, "trials.window_s": null } }] : []),
      ...events.map((name) => ({ label: `${name}, from ${1000 * from} to ${1000 * to} ms`, changes: { "trials.align_to": name, "trials.window_s": [from, to] } }))] };
}

function timeGuesses({ report, options }) {
  const areTimes = areTimesIn(report);
  const now = `${textOf("ms", report.bin_width_s)} ms`;
  const width = areTimes ? "bin_width_s" : "rebin_s";
  const widths = areTimes ? [0.001, 0.005, 0.01, 0.02, 0.05, 0.1] : [2, 3, 4, 5, 10].map((times) => times * report.bin_width_s).filter((value) => value <= 0.2);
  const bins = { key: "bins", title: "Bin width", how: areTimes ? "spikes are counted in bins of this width" : "neighbouring bins can be added up",
    choices: [{ label: now, changes: null }, ...(valueAt(options, width) ? [{ label: "as found", changes: { [width]: null } }] : []),
      ...widths.filter((value) => Math.abs(value - report.bin_width_s) > 1e-9).map((value) => ({ label: `${textOf("ms", value)} ms`, changes: { [width]: Number(value.toPrecision(9)) } }))] };
  if (!areTimes) return [bins];
  const unit = valueAt(options, "time_unit");
  return [bins, { key: "unit", title: "Unit of all times in the file", how: unit ? "given in the options" : "by names, by the format, or seconds",
    choices: [{ label: unit ? UNITS.find(([key]) => key === unit)[1] : "as it was found", changes: null },
      ...UNITS.slice(1).filter(([key]) => key !== unit).map(([key, label]) => ({ label, changes: key === "samples" ? { time_unit: key, sampling_rate_hz: valueAt(options, "sampling_rate_hz") ?? 30000 } : { time_unit: key } }))] }];
}

function splitGuess({ report, options }) {
  const { train, valid, not_given: rest } = report.split;
  const kind = valueAt(options, "split.kind") ?? "given";
  const now = valid > 0 ? `${train} training, ${valid} validation trials${rest ? `, ${rest} test trials` : ""}` : "each job draws them (a fifth of the trials)";
  const label = Object.fromEntries(FIELDS.get("split.kind")[4]);
  return { key: "split", title: "Validation trials", how: kind === "given" ? (valid > 0 ? "the split of the file" : "the file has no split") : "drawn for this data set",
    choices: [{ label: now, changes: null }, ...(kind === "given" ? [] : [{ label: label[""], changes: { "split.kind": null } }]),
      ...["trial", "condition", "time"].filter((one) => one !== kind && (one !== "condition" || report.conditions)).map((one) => ({ label: label[one], changes: { "split.kind": one } }))] };
}
