// A paragraph for the methods section of a paper, with what it cites.

import { html, Copy, Loading, Problem } from "../ui.js";
import { useDocument } from "../api.js";

export function Methods({ modelId }) {
  const { data, error } = useDocument(`/v1/models/${modelId}/methods`);
  if (!data) return error ? html`<${Problem} error=${error} />` : html`<${Loading} what="the paragraph" />`;
  const links = data.citations.map(({ text, doi }) => html`<li>${text.replace(/ *https:\/\/doi\.org\/\S+$/, "")} ${doi && html`<a href=${`https://doi.org/${doi}`}>${doi}</a>`}</li>`);
  return html`<div class="methods"><p>${data.text}</p><ul>${links}</ul></div>
    <p class="buttons"><${Copy} text=${[data.text, "", ...data.citations.map(({ text }) => text)].join("\n")} label="Copy the paragraph" />
      <${Copy} text=${data.citations.map(({ bibtex }) => bibtex).join("\n\n")} label="Copy BibTeX" /></p>`;
}
