// The users: what one opened lately, and what to recommend, each note with its reason.

import { get, post } from "./api.js";
import { $, el, userLink } from "./dom.js";
import { basis, t } from "./i18n.js";
import { noteItem, place, searchable, shares, titleOf } from "./lists.js";

const RECOMMENDED = 10;

const found = searchable("users-search", "users", "users", userItem);
const recent = place("recent");
const recommendations = place("recommendations");

let chosen = null;
let started = false;

function userItem({ user_id: id, opened }) {
  return el("li", { "data-user-id": id },
    el("a", { href: userLink(id) },
      el("span", { class: "title", text: id }),
      el("span", { class: "below", text: t("users.opened", { n: opened }) })));
}

function drawRecent({ recent: notes }, box) {
  box.append(...notes.map((note) => noteItem(note)));
  return notes.length ? t("recent.count", { n: notes.length }) : t("recent.none");
}

function drawRecommended({ basis: words, recommended }, box) {
  const widths = shares(recommended.map((note) => note.score));
  box.append(...recommended.map((note, i) => {
    const reason = note.reason
      ? t("recommendations.because", { title: titleOf(note.reason) }) : t("recommendations.popular");
    return noteItem(note, { share: widths[i], reason });
  }));
  return recommended.length ? basis(words) : t("recommendations.none");
}

function heading() {
  $("recent-heading").textContent = chosen === null ? t("recent.heading") : t("recent.heading.of", { user: chosen });
}

/** Opens the users, and of them the one with this id, if any; `focus` moves the keyboard there. */
export function openUser(id, focus) {
  if (!started) found.search();
  started = true;
  chosen = id;
  heading();
  $("users-columns").classList.toggle("chosen", id !== null);
  found.mark(id);
  if (id === null) {
    recent.clear("users.idle");
    recommendations.clear("recommendations.idle");
    return;
  }
  recent.fill((signal) => get(`users/${encodeURIComponent(id)}`, signal), drawRecent);
  recommendations.fill((signal) => post("recommend", { user_id: id, k: RECOMMENDED }, signal), drawRecommended);
  if (!focus) return;
  $("recent-heading").focus({ preventScroll: true });
  $("recent-heading").scrollIntoView({ block: "nearest" });
}

export function startUsers() {
  document.addEventListener("redraw", heading);
  document.addEventListener("again", () => { started = false; });
}
