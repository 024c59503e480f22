// The lines of Python, MATLAB and curl that fetch what a view shows.

import { html, useState, Copy } from "./ui.js";
import { getKey, urlOf } from "./api.js";

/** Return {curl, Python, MATLAB} for a request. Programs take the key from the environment, so no key stands in a script. */
export function codeOf(path, query = {}, isArray = false) {
  const url = urlOf(path, query);
  const needsKey = Boolean(getKey());
  const npy = urlOf(path, { ...query, format: "npy" });
  const json = urlOf(path, isArray ? { ...query, format: "json" } : query);
  return {
    Python: isArray
      ? ["import io, os, urllib.request", "import numpy as np", "",
        `request = urllib.request.Request("${npy}"${needsKey ? ', headers={"Authorization": "Bearer " + os.environ["LATENTRY_KEY"]}' : ""})`,
        "array = np.load(io.BytesIO(urllib.request.urlopen(request).read()))"]
      : ["import json, os, urllib.request", "",
        `request = urllib.request.Request("${url}"${needsKey ? ', headers={"Authorization": "Bearer " + os.environ["LATENTRY_KEY"]}' : ""})`,
        "document = json.load(urllib.request.urlopen(request))"],
    MATLAB: [...(needsKey ? ["options = weboptions('HeaderFields', {'Authorization', ['Bearer ' getenv('LATENTRY_KEY')]});"] : ["options = weboptions('ContentType', 'json');"]),
      `document = webread('${json}', options);`],
    curl: [`curl --fail-with-body${needsKey ? ' -H "Authorization: Bearer $LATENTRY_KEY"' : ""} '${isArray ? npy : url}'${isArray ? " -o array.npy" : ""}`],
  };
}

export function CodeLines({ path, query, isArray, code = codeOf(path, query, isArray) }) {
  const [language, setLanguage] = useState(Object.keys(code)[0]);
  const text = code[language].join("\n");
  return html`<div class="code">
    <div class="buttons" role="group" aria-label="Language">${Object.keys(code).map((name) => html`<button type="button" aria-pressed=${name === language}
      onClick=${() => setLanguage(name)}>${name}</button> `)}<${Copy} text=${text} /></div>
    <pre tabindex="0"><code>${text}</code></pre>
  </div>`;
}
