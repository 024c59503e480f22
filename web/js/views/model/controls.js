// Controls that several tabs use. What they choose stands in the address.

import { html, Field, useEffect, useState } from "../../ui.js";
import { setQuery } from "../../router.js";
import { metadataOf, spoken } from "./owner.js";

/** Return whether the window is narrow, so that plots stand under each other. */
export function useNarrow() {
  const media = matchMedia("(max-width: 700px)");
  const [isNarrow, setNarrow] = useState(media.matches);
  useEffect(() => {
    const update = () => setNarrow(media.matches);
    media.addEventListener("change", update);
    return () => media.removeEventListener("change", update);
  }, []);
  return isNarrow;
}

/** A labelled choice. options: [[value, label], …]; also: further changes of the address. */
export function Choice({ label, name, value, options, help, also = {} }) {
  return html`<${Field} label=${label} help=${help}>${(attributes) => html`<select value=${value ?? ""} onChange=${(event) => setQuery({ [name]: event.target.value || null, ...also })} ...${attributes}>
    ${options.map(([key, text]) => html`<option value=${key}>${text}</option>`)}</select>`}<//>`;
}

const OPERATORS = [["eq", "="], ["ne", "≠"], ["lt", "<"], ["le", "≤"], ["gt", ">"], ["ge", "≥"]];

/** Return the condition on metadata of trials as the API takes it, or an empty text. */
export function whereOf({ where_name: name, where_op: operator = "eq", where_value: value }) {
  return name && value !== undefined && value !== "" ? `${JSON.stringify(name)}:${operator}:${value}` : "";
}

/** A filter by metadata of trials: a name, a comparison, a value. */
export function Filter({ owner, session, query }) {
  const names = metadataOf(owner, session).map(({ name }) => name);
  if (!names.length) return null;
  const known = owner.dataset?.report?.trial_metadata?.[query.where_name]?.values?.map((item) => item.value);
  const change = (event) => setQuery({ where_value: event.target.value || null });
  return html`<${Choice} label="Only trials with" name="where_name" value=${query.where_name ?? ""} options=${[["", "anything"], ...names.map((name) => [name, spoken(name)])]} also=${{ where_value: null, where_op: null }} />
    ${query.where_name && html`<${Choice} label="Comparison" name="where_op" value=${query.where_op ?? "eq"} options=${OPERATORS} />
      <${Field} label="Value">${(attributes) => (known ? html`<select value=${query.where_value ?? ""} onChange=${change} ...${attributes}><option value="">any</option>${known.map((one) => html`<option value=${one}>${one}</option>`)}</select>`
    : html`<input value=${query.where_value ?? ""} onChange=${change} ...${attributes} />`)}<//>`}`;
}
