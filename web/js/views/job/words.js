// Names and numbers of searches in words.

const NAMES = {
  learning_rate: "learning rate", dropout: "dropout", cd_rate: "coordinated dropout rate", cd_pass_rate: "coordinated dropout pass rate",
  kl_weight_initial_condition: "KL weight of the initial condition", kl_weight_inputs: "KL weight of inputs", l2_weight_generator: "L2 weight of the generator",
  l2_weight_controller: "L2 weight of the controller", generator_units: "generator units", encoder_units: "encoder units", controller_units: "controller units",
  controller_encoder_units: "controller encoder units", initial_condition_dim: "initial condition dim", inferred_inputs: "inferred inputs", read_in_dim: "read-in dim",
  models: "models", epochs: "epochs of each model", sv_rate: "SV rate", top_k: "models whose weights are kept", wall_seconds: "time limit (s)", device_seconds: "device time limit (s)", refit: "refit on training and validation trials",
};

/** "learning rate" of `learning_rate` */
export function nameOfValue(name) {
  return NAMES[name] ?? name.replaceAll("_", " ");
}

const PRESETS = { quick: "Quick", autolfads: "AutoLFADS", "paper-2019": "Random search" };

/** "AutoLFADS" of `autolfads` */
export function nameOfPreset(preset) {
  return PRESETS[preset] ?? preset ?? "none";
}

/** A text of the service with the labels of the form in place of its fields: “Epochs of each model” of `budget.epochs`. */
export function withLabels(text) {
  const label = (name) => nameOfValue(name).replace(/ \(.*/, "");
  const said = text.replace(/\b(?:budget|training|space|strategy|architecture|inference)\.(\w+)/g, (_, name) => `“${capital(label(name))}”`)
    .replace(/\b[a-z0-9]+(?:_[a-z0-9]+)+\b/g, (name) => (NAMES[name] ? label(name) : name));
  return capital(said);
}

export const capital = (text) => text.slice(0, 1).toUpperCase() + text.slice(1);

/** A hyperparameter: three digits, powers of ten for small ones. */
export function short(value) {
  if (typeof value !== "number") return value === null || value === undefined ? "–" : String(value);
  if (value !== 0 && (Math.abs(value) < 0.001 || Math.abs(value) >= 1e5)) return value.toExponential(1).replace(".0e", "e").replace("e+", "e");
  return String(Number(value.toPrecision(3)));
}

/** Searched values of the models: [{ name, isLog }], hyperparameters and sizes of the network with a range or a list. */
export function searchedIn({ space, architecture }) {
  const isSearched = ([, value]) => value !== null && typeof value === "object" && (Array.isArray(value) ? value.length > 1 : value.low < value.high);
  const unread = architecture.controller_units === 0 ? ["kl_weight_inputs", "l2_weight_controller", "controller_encoder_units"] : [];
  return [...Object.entries(space), ...Object.entries(architecture).filter(([name]) => name !== "held_out_neurons")]
    .filter(isSearched).filter(([name]) => !unread.includes(name)).map(([name, value]) => ({ name, isLog: value.scale === "log" }));
}

/** A searched value of one model. */
export function valueOf(model, name) {
  const isNode = model.architecture.generator === "node";
  if (name === "node_units") return isNode ? model.architecture.generator_units : undefined;
  if (name === "generator_units" && isNode) return undefined;
  return model.hyperparameters[name] ?? model.architecture[name];
}

/** "learning rate 0.003, dropout 0.1" */
export function describe(model, searched, separator = ", ") {
  return searched.map(({ name }) => `${nameOfValue(name)} ${short(valueOf(model, name))}`).join(separator);
}

/** "1, 4 and 7" */
export function list(items) {
  return items.length < 2 ? items.join("") : `${items.slice(0, -1).join(", ")} and ${items.at(-1)}`;
}

/** [0, 1, 2, 5] → "0-2,5", so that the numbers of many models fit into an address. */
export function packNumbers(numbers) {
  const parts = [];
  for (const number of [...numbers].sort((a, b) => a - b)) {
    const last = parts.at(-1);
    if (last && last[1] === number - 1) last[1] = number;
    else parts.push([number, number]);
  }
  return parts.map(([low, high]) => (low === high ? low : `${low}-${high}`)).join(",");
}

export function unpackNumbers(text) {
  const numbers = new Set();
  for (const part of (text ?? "").split(",").filter(Boolean)) {
    const [low, high = low] = part.split("-").map(Number);
    for (let number = low; number <= Math.min(high, low + 2000); number += 1) numbers.add(number);
  }
  return numbers;
}
