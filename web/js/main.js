// The shell of the page: navigation, the key, news of the connection, and the view that the address names.

import { html, render, useEffect, useState, Dialog, Field, Link } from "./ui.js";
import { getKey, hasShareToken, request, setKey, setScopes, useConnection, useLoaded } from "./api.js";
import { useRoute } from "./router.js";
import { EndedLink, leave, SHARED_VIEWS } from "./views/share.js";

/** Views by the first part of their address. Each module is loaded when it is first shown. */
const VIEWS = {
  "": () => import("./views/home.js"),
  add: () => import("./views/add.js"),
  datasets: () => import("./views/dataset.js"),
  search: () => import("./views/search.js"),
  jobs: () => import("./views/job.js"),
  models: () => import("./views/model.js"),
  inferences: () => import("./views/model.js"),
  compare: () => import("./views/compare.js"),
  share: () => import("./views/share.js"),
  use: () => import("./views/use.js"),
  help: () => import("./views/help.js"),
};

function useView(name) {
  const [state, setState] = useState({});
  useEffect(() => {
    let isGone = false;
    const load = VIEWS[name];
    if (!load) setState({ name, error: new Error("This address names no view.") });
    else {
      load().then((module) => { if (!isGone) setState({ name, View: module.default }); },
        (error) => { if (!isGone) setState({ name, error }); });
    }
    return () => { isGone = true; };
  }, [name]);
  return state.name === name ? state : {};
}

function Theme() {
  const [theme, setTheme] = useState(localStorage.getItem("latentry.theme") ?? "auto");
  useEffect(() => {
    if (theme === "auto") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = theme;
    localStorage.setItem("latentry.theme", theme);
    dispatchEvent(new Event("themechange"));
  }, [theme]);
  return html`<label class="theme"><span class="hidden">Colours</span><select value=${theme} onChange=${(event) => setTheme(event.target.value)}>
    <option value="auto">System colours</option><option value="light">Light</option><option value="dark">Dark</option></select></label>`;
}

function KeyDialog({ isNeeded, onClose }) {
  const [value, setValue] = useState("");
  const submit = (event) => { event.preventDefault(); setKey(value.trim()); onClose(); };
  return html`<${Dialog} title="Your key" onClose=${onClose}>
    <p>${isNeeded ? "This service shows data only with a key." : "You can already use this service. With another key, the page acts for its holder: with its permissions, and with its name in the log of changes."}${" "}
      The page keeps the key until you close this tab, and sends it to this service only.</p>
    <form onSubmit=${submit}>
      <${Field} label="Key" help="Ask the person who runs the service, or make one: latentry keys create.">
        ${(attributes) => html`<input type="password" autocomplete="off" required value=${value} onInput=${(event) => setValue(event.target.value)} ...${attributes} />`}<//>
      <p class="buttons"><button class="primary">Use this key</button>
        ${getKey() && html`<button type="button" onClick=${() => { setKey(""); onClose(); }}>Forget the present key</button>`}</p>
    </form>
  <//>`;
}

const NAVIGATION = [["/", "Home"], ["/add", "Add a recording"], ["/search", "Start a search"], ["/compare", "Compare"], ["/use", "Usage and sharing"], ["/help", "Help"]];

const KINDS = { dataset: "data set", job: "job", model: "model" };

function Header({ route, caller, onKey }) {
  const isShare = Boolean(caller?.share);
  const links = isShare ? [["/help", "Help"]] : NAVIGATION;
  return html`<header class="top">
    <a class="skip" href="#main" onClick=${(event) => { event.preventDefault(); document.querySelector("main").focus(); }}>To the content</a>
    <${Link} to=${isShare ? `/${SHARED_VIEWS[caller.share.kind]}/${caller.share.id}` : "/"} class="brand">Latentry<//>
    <nav aria-label="Views">${links.map(([path, label]) => html`<${Link} to=${path}
      aria-current=${(route.path === path || (path !== "/" && route.path.startsWith(path))) ? "page" : undefined}>${label}<//>`)}
      <a href="docs">API</a></nav>
    <span class="top-end"><${Theme} /><button type="button" class="plain" onClick=${onKey}>${getKey() ? "Key" : "Use a key"}</button></span>
  </header>`;
}

function RefusedKey({ onKey }) {
  return html`<div class="empty" role="alert"><h1>This key is not valid</h1><p>It may be mistyped, expired or revoked. Ask the person who runs the service for another one.</p>
    <p class="buttons"><button type="button" class="primary" onClick=${onKey}>Enter another key</button> <button type="button" onClick=${() => setKey("")}>Go on without a key</button></p></div>`;
}

function App() {
  const route = useRoute();
  const { isOnline, needsKey, keys } = useConnection();
  const [asksKey, setAsksKey] = useState(false);
  const asked = useLoaded((signal) => request("/v1/caller", { signal }), [keys], 60_000); // again, for news of a pause
  const caller = asked.error?.status === 401 ? null : asked.data; // with a share that has ended, nobody is known
  setScopes(caller?.share ? null : caller?.scopes ?? null); // views of a share have no such buttons
  const { View, error } = useView(route.parts[0] ?? "");
  useEffect(() => { document.querySelector("main").removeAttribute("data-ready"); scrollTo(0, 0); }, [route.path]);
  return html`<${Header} route=${route} caller=${caller} onKey=${() => setAsksKey(true)} />
    ${!isOnline && html`<p class="banner bad" role="alert">The server does not answer. The page asks again every two seconds; running jobs are not affected.</p>`}
    ${caller?.share && html`<p class="banner" role="note">You look at a shared ${KINDS[caller.share.kind]}. Nothing can be changed here. <button type="button" class="small" onClick=${leave}>Leave the shared view</button></p>`}
    ${caller && !caller.share && !caller.scopes.includes("write") && html`<p class="banner" role="note">Your key may only read. The service refuses whatever changes something.</p>`}
    ${caller?.waits_for && html`<p class="banner" role="note"><strong>Work waits:</strong> ${caller.waits_for}.</p>`}
    <main id="main" tabindex="-1">
      ${error && html`<div class="problem" role="alert"><strong>${error.message}</strong><p><${Link} to="/">Go to Home<//></p></div>`}
      ${needsKey && route.parts[0] !== "share" ? (hasShareToken() ? html`<${EndedLink} />` : getKey() ? html`<${RefusedKey} onKey=${() => setAsksKey(true)} />` : html`<div class="empty"><h1>A key is required</h1><p>This service shows data only with a key.</p>
          <p><button type="button" class="primary" onClick=${() => setAsksKey(true)}>Enter a key</button></p></div>`)
    : View && html`<${View} key=${`${route.path} ${keys}`} route=${route} caller=${caller} />`}
    </main>
    ${asksKey && html`<${KeyDialog} isNeeded=${needsKey} onClose=${() => setAsksKey(false)} />`}`;
}

render(html`<${App} />`, document.getElementById("page"));
