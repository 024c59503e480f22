// A shared link was opened: take its token as the key of this tab, and go to what it shows.

import { html, useEffect, Loading, Problem, useReady, useTitle } from "../ui.js";
import { getKey, request, setKey, useLoaded } from "../api.js";
import { href } from "../router.js";

const VIEWS = { dataset: "datasets", job: "jobs", model: "models" };

export default function Share({ route }) {
  useTitle("Shared link");
  const [, token] = route.parts;
  useEffect(() => { if (getKey() !== token) setKey(token); }, [token]);
  const caller = useLoaded((signal) => request("/v1/caller", { signal, headers: { Authorization: `Bearer ${token}` } }), [token]);
  useEffect(() => {
    const { share } = caller.data ?? {};
    if (share && getKey() === token) location.replace(href(`/${VIEWS[share.kind]}/${share.id}`)); // the token leaves the address
  }, [caller.data]);
  useReady(caller.error);
  return html`<h1>Shared link</h1>${caller.error ? html`<${Problem} error=${caller.error} /><p>Ask the person who sent the link for a new one.</p>` : html`<${Loading} what="what is shared" />`}`;
}
