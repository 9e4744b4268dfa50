// The view of users: what a user opened last, and what is recommended to the user and why.

import { get, post } from "./api.js";
import { $, el, userLink } from "./dom.js";
import { basis, t } from "./i18n.js";
import { noteItem, place, searchable, shares, titleOf } from "./lists.js";
import { addView } from "./views.js";

const WORDS = {
  "tab.users": ["Users", "用户"],

  "users.label": ["Find a user", "查找用户"],
  "users.hint": ["User id", "用户编号"],
  "users.results": ["Users found", "找到的用户"],
  "users.all": ["Users", "用户"],
  "users.found": [{ one: "{n} user found", other: "{n} users found" }, "找到 {n} 位用户"],
  "users.first": ["The first {n} users found", "找到的前 {n} 位用户"],
  "users.none": ["No user id contains “{q}”.", "没有编号包含“{q}”的用户。"],
  "users.empty": ["There are no users yet, because nothing has been clicked.", "还没有用户，因为还没有任何点击。"],
  "users.opened": [{ one: "{n} note opened", other: "{n} notes opened" }, "打开过 {n} 篇笔记"],
  "users.idle": ["Choose a user to see what they opened.", "选择一位用户，查看其打开过的笔记。"],

  "recent.heading": ["Recently opened", "最近打开"],
  "recent.heading.of": ["Recently opened by {user}", "{user} 最近打开"],
  "recent.count": [{ one: "{n} note, the latest first", other: "{n} notes, the latest first" }, "{n} 篇笔记，由近到远"],
  "recent.none": ["This user has not opened a note.", "该用户没有打开过笔记。"],

  "recommendations.heading": ["Recommended", "推荐"],
  "recommendations.idle": ["Recommended notes and their reasons appear here.", "推荐的笔记及其理由会显示在这里。"],
  "recommendations.none": ["There is nothing to recommend.", "没有可推荐的笔记。"],
  "recommendations.because": ["Because of: {title}", "因为：{title}"],
  "recommendations.popular": ["Popular", "热门"],
  "recommendations.fresh": ["New", "最新"],
  "recommendations.recall": ["Related to a note that is no longer shown", "与已下架的笔记相关"],
};

const PANEL = `
  <h1 class="unseen" data-t="tab.users"></h1>
  <div class="columns" id="users-columns">
    <div class="side">
      <label for="users-search" class="heading" data-t="users.label"></label>
      <input id="users-search" data-testid="users-search" type="search" autocomplete="off" spellcheck="false" autocapitalize="off" data-t-placeholder="users.hint">
      <div class="found" id="users-found">
        <div class="status" id="users-results-status" role="status"></div>
        <ul class="list" id="users-results" data-testid="users-results" data-t-aria-label="users.results"></ul>
        <button type="button" class="quiet more" id="users-more" data-t="more"></button>
      </div>
    </div>
    <section class="card middle" aria-labelledby="recent-heading">
      <h2 id="recent-heading" tabindex="-1"></h2>
      <div class="status" id="recent-status" role="status"></div>
      <ol class="list" id="recent" data-testid="recent" aria-labelledby="recent-heading"></ol>
    </section>
    <section class="card last" aria-labelledby="recommendations-heading">
      <h2 id="recommendations-heading" data-t="recommendations.heading"></h2>
      <div class="status" id="recommendations-status" role="status"></div>
      <ol class="list ranked" id="recommendations" data-testid="recommendations" aria-labelledby="recommendations-heading"></ol>
    </section>
  </div>
`;

addView({
  name: "users", words: WORDS, panel: PANEL, start,
  show: ({ id, focus }) => openUser(id, focus && id !== null),
});

const RECOMMENDED = 10; // notes that are shown

const found = searchable("users-search", "users", "users", userItem);
const recent = place("recent");
const recommendations = place("recommendations");

let chosen = null;
let searched = false;

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
      ? t("recommendations.because", { title: titleOf(note.reason) }) : t(`recommendations.${note.source}`);
    return noteItem(note, { share: widths[i], reason });
  }));
  return recommended.length ? basis(words) : t("recommendations.none");
}

function heading() {
  $("recent-heading").textContent = chosen === null ? t("recent.heading") : t("recent.heading.of", { user: chosen });
}

/** Opens the view and the user with this id, if there is one; `focus` moves the keyboard there. */
function openUser(id, focus) {
  if (!searched) found.search();
  searched = true;
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
  recommendations.fill((signal) => post("recommend", { user_id: id, k: RECOMMENDED, record: false }, signal), drawRecommended);
  if (!focus) return;
  $("recent-heading").focus({ preventScroll: true });
  $("recent-heading").scrollIntoView({ block: "nearest" });
}

function start() {
  document.addEventListener("redraw", heading);
  document.addEventListener("again", () => { searched = false; });
}
