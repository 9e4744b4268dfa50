// The view of the map: every note is a point, near the notes that are alike, in the colour of its category.

import { get } from "./api.js";
import { groupOf, learnCategories } from "./colours.js";
import { $, debounce, el, noteLink } from "./dom.js";
import { number, t } from "./i18n.js";
import { categoryOf, dot, noteItem, place, titleOf } from "./lists.js";
import { listen } from "./map-input.js";
import { Plot } from "./map-plot.js";
import { selection } from "./notes.js";
import { addView } from "./views.js";

const WORDS = {
  "tab.map": ["Map", "地图"],

  "map.label": ["Map of the notes", "笔记地图"],
  "map.help": [
    "Arrow keys go from note to note, Enter opens a note, Shift and arrow keys move the map, + and − zoom, 0 shows everything. With a mouse or by touch: drag to move, use the wheel or pinch to zoom, click or tap to open. The list below shows the same notes as text.",
    "方向键在笔记间移动，回车打开，Shift 加方向键移动地图，+ 和 − 缩放，0 显示全部。鼠标或触摸：拖动以移动，滚轮或双指以缩放，点按以打开。下方列表以文字形式显示相同的笔记。",
  ],
  "map.zoom": ["Zoom", "缩放"],
  "map.in": ["Zoom in", "放大"],
  "map.out": ["Zoom out", "缩小"],
  "map.fit": ["Show everything", "显示全部"],
  "map.legend": ["Categories", "类别"],
  "map.all": ["Show all", "全部显示"],
  "map.nothing": ["Hide all", "全部隐藏"],
  "map.other": ["others", "其他"],
  "map.without": ["no category", "无类别"],
  "map.count": [{ one: "{n} note", other: "{n} notes" }, "{n} 篇笔记"],
  "map.empty": ["There are no notes to draw yet.", "还没有可绘制的笔记。"],
  "map.waiting": ["The map is being computed.", "正在计算地图。"],
  "map.open": ["Open", "打开"],
  "map.list": ["The notes in view, as a list", "视野内的笔记（列表）"],
  "map.listed": ["{n} of {all} notes in view, closest to the center first", "视野内 {all} 篇笔记中的 {n} 篇，离中心近的在前"],
};

const PANEL = `
  <h1 class="unseen" data-t="tab.map"></h1>
  <div class="atlas">
    <div class="plot">
      <div class="frame" id="map-frame">
        <canvas id="map-canvas" data-testid="map-canvas" tabindex="0" role="application" data-t-aria-label="map.label" aria-describedby="map-help"></canvas>
        <p class="tip" id="map-tip" aria-hidden="true" hidden></p>
        <div class="zoom" role="group" data-t-aria-label="map.zoom">
          <button type="button" id="map-in" data-t-aria-label="map.in">+</button>
          <button type="button" id="map-out" data-t-aria-label="map.out">−</button>
          <button type="button" id="map-fit" data-t-aria-label="map.fit"><svg viewBox="0 0 20 20" width="16" height="16" aria-hidden="true"><path d="M3 7V3h4M13 3h4v4M17 13v4h-4M7 17H3v-4" fill="none" stroke="currentColor" stroke-width="2"/></svg></button>
        </div>
      </div>
      <div class="status" id="map-status" role="status"></div>
      <div class="here" id="map-here" role="status"></div>
      <p class="muted" id="map-help" data-t="map.help"></p>
    </div>
    <div class="card legend">
      <div class="row">
        <h2 data-t="map.legend"></h2>
        <button type="button" class="quiet" id="map-all"></button>
      </div>
      <ul id="map-legend" data-testid="map-legend"></ul>
    </div>
  </div>
  <details class="card" id="map-list-box">
    <summary data-t="map.list"></summary>
    <p class="muted" id="map-list-count"></p>
    <ul class="list" id="map-list"></ul>
  </details>
`;
addView({
  name: "map", words: WORDS, panel: PANEL, start, show: ({ focus }) => show(focus), leave,
});

const LISTED = 50; // notes of the list below the map

const plot = new Plot($("map-canvas"), $("map-tip"), () => listLater());
const map = place("map", $("map-legend"), () => {});

let waiting;
let shownSelection = null;

// ---------------------------------------------------------------- loading

function load() {
  clearTimeout(waiting);
  map.fill((signal) => get("map", signal), take);
}

function take(answer) {
  clearTimeout(waiting);
  if (!answer.ready) {
    if (plot.visible) waiting = setTimeout(load, 3000);
    return t("map.waiting");
  }
  // Other views colour by category as well.
  if (learnCategories(answer.categories)) queueMicrotask(() => document.dispatchEvent(new Event("redraw")));
  plot.setPoints(answer.note_ids.map((id, i) => ({
    id, title: answer.titles[i], category: answer.categories[i], group: groupOf(answer.categories[i]),
    x: answer.x[i], y: -answer.y[i],
  })));
  drawLegend();
  return plot.points.length ? t("map.count", { n: plot.points.length }) : t("map.empty");
}

// ---------------------------------------------------------------- the legend

const nameOf = (group) => (group === null ? t("map.without") : group === "" ? t("map.other") : group);

function drawLegend() {
  const { points, off } = plot;
  const counts = new Map();
  for (const { group } of points) counts.set(group, (counts.get(group) ?? 0) + 1);
  const last = (group) => (group ? 0 : 1);
  const groups = [...counts.keys()].sort((a, b) => last(a) - last(b) || nameOf(a).localeCompare(nameOf(b)));
  $("map-legend").replaceChildren(...groups.map((group) => el("li", {},
    el("button", { type: "button", "aria-pressed": String(!off.has(group)), onclick: (event) => toggle(group, event) },
      dot(group),
      el("span", { class: "name", text: nameOf(group) }),
      el("span", { class: "muted", text: number(counts.get(group)) })))));
  $("map-all").textContent = t(off.size ? "map.all" : "map.nothing");
  $("map-all").onclick = () => {
    if (off.size) off.clear();
    else for (const group of groups) off.add(group);
    drawLegend();
    plot.changed();
  };
}

function toggle(group, { currentTarget }) {
  const { off } = plot;
  if (!off.delete(group)) off.add(group);
  currentTarget.setAttribute("aria-pressed", String(!off.has(group)));
  $("map-all").textContent = t(off.size ? "map.all" : "map.nothing");
  plot.changed();
}

// ---------------------------------------------------------------- notes

/** Marks a note without opening it, and says which one it is; null marks none. */
function mark(point) {
  plot.marked = point;
  $("map-here").replaceChildren(...(point ? [
    categoryOf(point.category) ?? "",
    el("span", { class: "title", text: titleOf(point) }),
    el("a", { class: "button", href: noteLink(point.id), text: t("map.open") }),
  ] : []));
  plot.changed();
}

const open = (point) => { location.hash = noteLink(point.id); };

function drawList() {
  if (!$("map-list-box").open) return;
  const visible = plot.nearestToCenter();
  const listed = visible.slice(0, LISTED);
  $("map-list-count").textContent = t("map.listed", { n: listed.length, all: visible.length });
  $("map-list").replaceChildren(...listed.map(({ id, title, category }) => noteItem({ note_id: id, title, category })));
}

const listLater = debounce(drawList, 300);

// ---------------------------------------------------------------- the view

function show(focus) {
  const opened = !plot.visible;
  plot.visible = true;
  if (opened || !plot.points.length) load();
  if (plot.whole) plot.fit();
  const chosen = plot.chosen();
  if (chosen && selection.id !== shownSelection && !plot.inView(chosen)) plot.center(chosen);
  shownSelection = selection.id;
  if (focus) plot.canvas.focus({ preventScroll: true });
}

function leave() {
  plot.visible = false;
  clearTimeout(waiting);
}

function start() {
  listen(plot, mark, open);
  $("map-in").addEventListener("click", () => plot.zoom(1.5));
  $("map-out").addEventListener("click", () => plot.zoom(1 / 1.5));
  $("map-fit").addEventListener("click", () => plot.fit());
  $("map-list-box").addEventListener("toggle", drawList);
  new ResizeObserver(() => (plot.whole && plot.visible ? plot.fit() : plot.changed())).observe($("map-frame"));
}
