// The page as a whole: its tabs, what the address after "#" opens, language, theme, and the start.

import { get } from "./api.js";
import { learnCategories } from "./colours.js";
import { $, recall, remember } from "./dom.js";
import { switchLanguage, t, translatePage } from "./i18n.js";
import { showMap, startMap } from "./map.js";
import { openNote, startNotes, titleInView } from "./notes.js";
import { showState, startState } from "./state.js";
import { openUser, startUsers } from "./users.js";

const TABS = ["notes", "users", "map", "state"];
const last = Object.fromEntries(TABS.map((tab) => [tab, `#/${tab}`])); // where each tab was left

let current = null;
let keepFocus = true; // of the first route, and where a tab was pressed

const tabOf = (name) => $(`tab-${name}`);

/** Opens what the address says: #/notes, #/notes/ID, #/write, #/users, #/users/ID, #/map, #/state. */
function route() {
  const [name, rest = ""] = location.hash.replace(/^#\//, "").split("/");
  const tab = TABS.includes(name) ? name : "notes";
  let id = null;
  try {
    id = decodeURIComponent(rest) || null;
  } catch {
    // Not an address that this page wrote.
  }
  const focus = !keepFocus;
  keepFocus = false;
  last[tab] = location.hash || "#/notes";
  if (tab !== current) {
    current = tab;
    for (const each of TABS) {
      tabOf(each).setAttribute("aria-selected", String(each === tab));
      tabOf(each).tabIndex = each === tab ? 0 : -1;
      $(`panel-${each}`).hidden = each !== tab;
    }
    window.scrollTo(0, 0);
  }
  showState(tab === "state");
  showMap(tab === "map", focus);
  if (tab === "notes") openNote(id, focus && (id !== null || name === "write"));
  if (tab === "users") openUser(id, focus && id !== null);
  retitle();
}

function retitle() {
  const name = current === "notes" ? titleInView() : t(`tab.${current}`);
  document.title = name ? `${name} · notellm` : "notellm";
}

function startTabs() {
  for (const tab of TABS) {
    tabOf(tab).addEventListener("click", () => {
      const hash = tab === current ? `#/${tab}` : last[tab];
      if (hash === location.hash) return;
      keepFocus = true;
      location.hash = hash;
    });
    tabOf(tab).addEventListener("keydown", (event) => {
      const at = TABS.indexOf(tab);
      const to = { ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: TABS.length - 1 }[event.key];
      if (to === undefined) return;
      event.preventDefault();
      const next = TABS[(to + TABS.length) % TABS.length];
      tabOf(next).focus();
      keepFocus = true;
      location.replace(last[next]);
    });
  }
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
    event.preventDefault(); // the address after "#" is the page's own
    $("main").focus();
  });
  $("write-link").addEventListener("click", () => {
    if (location.hash === "#/write") $("write-title").focus();
  });
}

/** Waits until the model is loaded, and learns its categories; `waited`: what is in view may have failed. */
async function waitUntilReady(waited = false) {
  for (;;) {
    try {
      const state = await get("state");
      // A model that was not trained to write categories names none; the notes of the map have some.
      const named = state.model?.categories ?? [];
      if (state.ready) learnCategories(named.length ? named : (await get("map")).categories);
      $("banner").hidden = state.ready;
      $("banner").textContent = state.ready ? "" : t("starting");
      if (state.ready) break;
      waited = true;
    } catch {
      return; // the place that is in view says what is wrong
    }
    await new Promise((resolve) => { setTimeout(resolve, 2000); });
  }
  if (waited) {
    document.dispatchEvent(new Event("again"));
    keepFocus = true;
    route();
  } else document.dispatchEvent(new Event("redraw"));
}

translatePage();
labelTools();
startTools();
startTabs();
startNotes();
startUsers();
startMap();
startState();
addEventListener("hashchange", route);
document.addEventListener("key", () => waitUntilReady(true));
route();
waitUntilReady();
