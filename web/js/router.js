// Addresses of views: the part after `#`, such as `#/jobs/job_1?tab=models`. The server never sees it, so no route is needed there.

import { useEffect, useState } from "../vendor/hooks.js";

/** Return {path, parts, query} of the present address. */
export function currentRoute() {
  const [path, search] = (location.hash.slice(1) || "/").split("?");
  return { path, parts: path.split("/").filter(Boolean).map(decodeURIComponent), query: Object.fromEntries(new URLSearchParams(search)) };
}

/** Return the address of a view. Values that are null, undefined or empty are left out. */
export function href(path, query = {}) {
  const known = Object.entries(query).filter(([, value]) => value !== null && value !== undefined && value !== "");
  const search = new URLSearchParams(known).toString();
  return `#${path}${search ? `?${search}` : ""}`;
}

/** Go to a view. */
export function go(path, query) {
  location.hash = href(path, query);
}

/** Change the query of the present view, so that its address shows the state. `null` removes a value. No entry of the history is made. */
export function setQuery(changes) {
  const { path, query } = currentRoute();
  history.replaceState(null, "", href(path, { ...query, ...changes }));
  dispatchEvent(new HashChangeEvent("hashchange"));
}

export function useRoute() {
  const [route, setRoute] = useState(currentRoute);
  useEffect(() => {
    const update = () => setRoute(currentRoute());
    addEventListener("hashchange", update);
    return () => removeEventListener("hashchange", update);
  }, []);
  return route;
}
