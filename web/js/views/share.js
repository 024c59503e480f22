// A shared link was opened: take its token as the key of this tab, and go to what it shows.

import { html, useEffect, Loading, Problem, useReady, useTitle } from "../ui.js";
import { request, setKey, useLoaded } from "../api.js";
import { href } from "../router.js";

const VIEWS = { dataset: "datasets", job: "jobs", model: "models" };

const problemOf = (title, hint) => Object.assign(new Error(title), { problem: { title, hint } });

/** Return what a token shows. The key of the tab stays as it is until the server knows the token. */
async function readShare(token, signal) {
  if (!token) throw problemOf("This link is not complete: its token is missing", "Copy the whole link.");
  const caller = await request("/v1/caller", { signal, headers: { Authorization: `Bearer ${token}` } });
  if (!caller.share) throw problemOf("This is a link to nothing that is shared", "Ask the person who sent it for a new one.");
  return caller.share;
}

export default function Share({ route }) {
  useTitle("Shared link");
  const [, token] = route.parts;
  const { data: share, error } = useLoaded((signal) => readShare(token, signal), [token]);
  useEffect(() => {
    if (!share) return;
    location.replace(href(`/${VIEWS[share.kind]}/${share.id}`)); // the token leaves the address
    setKey(token);
  }, [share]);
  useReady(error);
  return html`<h1>Shared link</h1>${error ? html`<${Problem} error=${error} />`
    : html`<${Loading} what="what is shared" />`}`;
}
