// The page as a whole: tabs, the address after "#", language, theme, and the start.

import { get } from "./api.js";
import { learnCategories } from "./colours.js";
import { $, el, recall, remember } from "./dom.js";
import { switchLanguage, t, translatePage } from "./i18n.js";
import { views } from "./views.js";

// The views, in the order of their tabs; the first one is shown at an address that is not known.
import "./notes.js";
import "./users.js";
import "./map.js";
import "./state.js";

const POLL = 2000; // ms between two looks at a service that is not ready

const last = new Map(views.map((view) => [view, `#/${view.name}`])); // the address at which each view was left

let current = null;
let keepFocus = true; // the next address leaves the keyboard where it is: at the start, and if a tab was pressed

/** Opens the view of the address: #/NAME or #/NAME/ID. */
function route() {
  const [name, rest = ""] = location.hash.replace(/^#\//, "").split("/");
  const view = views.find((one) => one.name === name) ?? views[0];
  let id = null;
  try {
    id = decodeURIComponent(rest) || null;
  } catch {
    // This page did not write the address.
  }
  const focus = !keepFocus;
  keepFocus = false;
  last.set(view, location.hash || `#/${view.name}`);
  if (view !== current) {
    current?.leave?.();
    current = view;
    for (const one of views) {
      const tab = $(`tab-${one.name}`);
      tab.setAttribute("aria-selected", String(one === view));
      tab.tabIndex = one === view ? 0 : -1;
      $(`panel-${one.name}`).hidden = one !== view;
    }
    window.scrollTo(0, 0);
  }
  view.show({ name, id, focus });
  retitle();
}

function retitle() {
  const name = current.title ? current.title() : t(`tab.${current.name}`);
  document.title = name ? `${name} · notellm` : "notellm";
}

function addTab(view, at) {
  const open = () => {
    const hash = view === current ? `#/${view.name}` : last.get(view);
    if (hash === location.hash) return;
    keepFocus = true;
    location.hash = hash;
  };
  const keys = (event) => {
    const to = { ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: views.length - 1 }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    const next = views[(to + views.length) % views.length];
    $(`tab-${next.name}`).focus();
    keepFocus = true;
    location.replace(last.get(next));
  };
  $("tabs").append(el("button", {
    type: "button", role: "tab", id: `tab-${view.name}`, "data-testid": `tab-${view.name}`,
    "aria-controls": `panel-${view.name}`, "data-t": `tab.${view.name}`, onclick: open, onkeydown: keys,
  }));
}

function labelTools() {
  const dark = document.documentElement.dataset.theme === "dark";
  $("theme").setAttribute("aria-label", t(dark ? "theme.light" : "theme.dark"));
  $("theme").title = t(dark ? "theme.light" : "theme.dark");
  $("language").textContent = t("language.other");
}

function useTheme(theme) {
  document.documentElement.dataset.theme = theme;
  document.dispatchEvent(new Event("redraw"));
}

function startTools() {
  $("theme").addEventListener("click", () => {
    const theme = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
    remember("theme", theme);
    useTheme(theme);
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", ({ matches }) => {
    if (!recall("theme")) useTheme(matches ? "dark" : "light");
  });
  $("language").addEventListener("click", switchLanguage);
  document.addEventListener("redraw", () => {
    labelTools();
    retitle();
  });
  document.addEventListener("opened", retitle);
  for (const button of document.querySelectorAll("[data-close]")) {
    button.addEventListener("click", () => button.closest("dialog").close());
  }
  $("skip").addEventListener("click", (event) => {
    event.preventDefault(); // the part of the address after "#" names a view
    $("main").focus();
  });
}

/** Learns the categories from the server; returns whether it answered. */
async function learnState() {
  try {
    const state = await get("state");
    // A model that was not trained to write categories names none; the notes of the map may have some.
    const named = state.model.categories;
    learnCategories(named.length ? named : (await get("map")).categories);
    showReadiness(state);
    return true;
  } catch {
    return false; // the open view says what is wrong
  }
}

/** Shows in a banner why the service is not ready, and looks again until it is. */
function showReadiness({ ready, not_ready: reason }) {
  $("banner").hidden = ready;
  $("banner").textContent = ready ? "" : t("unready", { reason });
  if (!ready) setTimeout(() => get("state").then(showReadiness, () => {}), POLL);
}

views.forEach(addTab);
translatePage();
labelTools();
startTools();
for (const view of views) view.start?.();
addEventListener("hashchange", route);
document.addEventListener("key", async () => {
  if (!await learnState()) return;
  document.dispatchEvent(new Event("again"));
  keepFocus = true;
  route();
});
route();
learnState().then((known) => { if (known) document.dispatchEvent(new Event("redraw")); });
