// A shared link was opened: take its token as the key of this tab, and go to what it shows.

import { html, useEffect, Loading, Problem, useReady, useTitle } from "../ui.js";
import { hasShareToken, request, setKey, useLoaded } from "../api.js";
import { href } from "../router.js";

/** Views by the kind of what is shared. */
export const SHARED_VIEWS = { dataset: "datasets", job: "jobs", model: "models" };

/** Drop the token of a shared link, and go Home. A key stays. */
export function leave() {
  history.pushState(null, "", href("/"));
  dispatchEvent(new HashChangeEvent("hashchange"));
  if (hasShareToken()) setKey("");
}

export function EndedLink() {
  useReady(true);
  return html`<div class="empty" role="alert"><h1>This link has ended or was revoked</h1><p>Ask whoever sent it for a new one.</p>
    <p><button type="button" onClick=${leave}>Leave the shared view</button></p></div>`;
}

/** Return what a token shows. The key of the tab stays as it is until the server knows the token. */
async function readShare(token, signal) {
  if (!token) throw Object.assign(new Error(), { problem: { title: "This link is not complete: its token is missing", hint: "Copy the whole link." } });
  const caller = await request("/v1/caller", { signal, headers: { Authorization: `Bearer ${token}` } });
  return caller.share; // null with a key, which is no link
}

export default function Share({ route }) {
  useTitle("Shared link");
  const [, token] = route.parts;
  const { data: share, error, isLoading } = useLoaded((signal) => readShare(token, signal), [token]);
  useEffect(() => {
    if (!share) return;
    location.replace(href(`/${SHARED_VIEWS[share.kind]}/${share.id}`, route.query)); // the token leaves the address
    setKey(token);
  }, [share]);
  const isEnded = error?.status === 401 || (!isLoading && !error && !share);
  useReady(error || isEnded);
  if (isEnded) return html`<${EndedLink} />`;
  return html`<h1>Shared link</h1>${error ? html`<${Problem} error=${error} />`
    : html`<${Loading} what="what is shared" />`}`;
}
