// The OpenAPI document of the service, which describes every field of a search: descriptions, choices, limits.

import { request, useLoaded } from "../../api.js";

export function useSchemas() {
  const loaded = useLoaded(async (signal) => (await request("/openapi.json", { signal })).components.schemas, []);
  return loaded.data;
}

function resolved(schemas, schema) {
  return schema?.$ref ? schemas[schema.$ref.split("/").at(-1)] : schema;
}

/** Return the schema of a field of the specification, such as ["budget", "models"]; of a strategy, by its kind. */
export function schemaAt(schemas, path, kind) {
  let schema = schemas?.JobSpecification;
  for (const name of path) {
    const property = schema?.properties?.[name];
    const union = property?.discriminator?.mapping?.[kind];
    schema = resolved(schemas, union ? { $ref: union } : property);
    if (schema?.anyOf?.some((one) => one.$ref) && schema.anyOf.length === 2 && schema.anyOf.some((one) => one.type === "null")) {
      schema = resolved(schemas, schema.anyOf.find((one) => one.$ref));
    }
  }
  return schema;
}

/** Return the names of the fields of a part of the specification. */
export function fieldsOf(schemas, path, kind) {
  return Object.keys(schemaAt(schemas, path, kind)?.properties ?? {});
}

/** Return the kinds of strategies with the first sentence of their descriptions. */
export function strategiesOf(schemas) {
  const mapping = schemas?.JobSpecification.properties.strategy.discriminator.mapping ?? {};
  return Object.entries(mapping).map(([kind, reference]) => [kind, resolved(schemas, { $ref: reference }).description.split("\n")[0]]);
}

/**
 * Return how a field is edited: { kind, choices, min, max, isNullable, isList }.
 *
 * kind: "boolean", "choice", "number", "choices" (a list of names), "numbers" (one number, or a list that is searched), "text", or "json"
 */
export function controlOf(schemas, schema) {
  const options = (schema?.anyOf ?? [schema]).map((one) => resolved(schemas, one)).filter(Boolean);
  const real = options.filter((one) => one.type !== "null");
  const isNullable = real.length < options.length;
  const [first] = real;
  const items = resolved(schemas, real.find((one) => one.type === "array")?.items);
  if (!first) return { kind: "json" };
  if (first.type === "boolean") return { kind: "boolean" };
  const choices = first.enum ?? items?.enum;
  if (choices) return { kind: items ? "choices" : "choice", choices, isNullable, isSingle: Boolean(first.enum) };
  const limits = { min: first.minimum ?? items?.minimum ?? first.exclusiveMinimum, max: first.maximum ?? items?.maximum, isInteger: (items ?? first).type === "integer", isNullable };
  if (items && ["integer", "number"].includes(items.type)) return { kind: "numbers", isSingle: first.type !== "array", ...limits };
  if (["integer", "number"].includes(first.type)) return { kind: "number", ...limits };
  return { kind: first.type === "string" ? "text" : "json", max: first.maxLength };
}
