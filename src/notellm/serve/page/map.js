// The map: every note a point, near those that are alike, in the colour of its category.

import { get } from "./api.js";
import { colourOf, groupOf, isSquare, learnCategories } from "./colours.js";
import { $, debounce, el, noteLink } from "./dom.js";
import { number, t } from "./i18n.js";
import { categoryOf, dot, noteItem, place, titleOf } from "./lists.js";
import { selection } from "./notes.js";

const MARGIN = 28; // px around the notes when everything is shown
const NEAR = { mouse: 12, other: 24 }; // px between a pointer and the note it means
const LISTED = 50;
const LABELLED = 40; // with no more notes than this in view, their titles are written beside them

const canvas = $("map-canvas");
const ink = canvas.getContext("2d");
const map = place("map", $("map-legend"), () => {});

let points = []; // {id, title, category, group, x, y}
let byId = new Map();
const off = new Set(); // groups that are not drawn
let box = null; // of all points: {x, y, width, height}
let view = { scale: 1, x: 0, y: 0 }; // screen = scale * point + (x, y), in CSS px
let whole = true; // everything is shown, and shall be after a change of size
let at = null; // the note that the keyboard or a tap is at
let over = null; // the note under the mouse
let visible = false;
let waiting;
let shownSelection = null;

const isOn = (point) => !off.has(point.group);
const across = (point) => view.scale * point.x + view.x;
const down = (point) => view.scale * point.y + view.y;
const inView = (point) =>
  across(point) >= 0 && across(point) <= canvas.clientWidth && down(point) >= 0 && down(point) <= canvas.clientHeight;

// ---------------------------------------------------------------- what is there

function load() {
  clearTimeout(waiting);
  map.fill((signal) => get("map", signal), take);
}

function take(answer) {
  clearTimeout(waiting);
  if (!answer.ready) {
    if (visible) waiting = setTimeout(load, 3000);
    return t("map.waiting");
  }
  // The other parts of the page colour by them too.
  if (learnCategories(answer.categories)) queueMicrotask(() => document.dispatchEvent(new Event("redraw")));
  points = answer.note_ids.map((id, i) => ({
    id, title: answer.titles[i], category: answer.categories[i], group: groupOf(answer.categories[i]),
    x: answer.x[i], y: -answer.y[i],
  })).filter(({ x, y }) => Number.isFinite(x) && Number.isFinite(y));
  byId = new Map(points.map((point) => [point.id, point]));
  at = byId.get(at?.id) ?? null;
  over = null;
  const xs = points.map((point) => point.x);
  const ys = points.map((point) => point.y);
  box = points.length ? { x: Math.min(...xs), y: Math.min(...ys) } : null;
  if (box) Object.assign(box, { width: Math.max(...xs) - box.x, height: Math.max(...ys) - box.y });
  drawLegend();
  if (whole) fit();
  changed();
  return points.length ? t("map.count", { n: points.length }) : t("map.empty");
}

// ---------------------------------------------------------------- the legend

const nameOf = (group) => (group === null ? t("map.without") : group === "" ? t("map.other") : group);

function drawLegend() {
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
    changed();
  };
}

function toggle(group, { currentTarget }) {
  if (!off.delete(group)) off.add(group);
  currentTarget.setAttribute("aria-pressed", String(!off.has(group)));
  $("map-all").textContent = t(off.size ? "map.all" : "map.nothing");
  changed();
}

// ---------------------------------------------------------------- drawing

let drawing = false;

/** What is in view has changed: draw with the next frame, however often this is called before. */
function changed() {
  if (drawing) return;
  drawing = true;
  requestAnimationFrame(() => {
    drawing = false;
    if (visible) draw();
  });
}

function draw() {
  const ratio = window.devicePixelRatio || 1;
  const [width, height] = [canvas.clientWidth, canvas.clientHeight];
  if (canvas.width !== Math.round(width * ratio)) canvas.width = Math.round(width * ratio);
  if (canvas.height !== Math.round(height * ratio)) canvas.height = Math.round(height * ratio);
  ink.setTransform(ratio, 0, 0, ratio, 0, 0);
  ink.clearRect(0, 0, width, height);
  const style = getComputedStyle(document.documentElement);
  const [text, surface, accent] = ["--text", "--surface", "--accent"].map((name) => style.getPropertyValue(name));
  ink.font = `12px ${getComputedStyle(document.body).fontFamily}`;

  const shown = points.filter((point) => isOn(point) && inView(point));
  const chosen = byId.get(selection.id);
  const related = new Set(chosen ? selection.related : []);
  const size = radius();
  const groups = new Map();
  for (const point of shown) {
    if (!groups.has(point.group)) groups.set(point.group, []);
    groups.get(point.group).push(point);
  }
  // With a note chosen the others step back; what is related is drawn again below, in full.
  ink.globalAlpha = chosen ? 0.3 : 0.85;
  for (const [group, members] of groups) mark(members, size, group);
  ink.globalAlpha = 1;

  if (chosen) {
    const near = points.filter((point) => related.has(point.id));
    ink.strokeStyle = accent;
    ink.lineWidth = 1;
    ink.globalAlpha = 0.5;
    ink.beginPath();
    for (const point of near) {
      ink.moveTo(across(chosen), down(chosen));
      ink.lineTo(across(point), down(point));
    }
    ink.stroke();
    ink.globalAlpha = 1;
    for (const point of near) {
      mark([point], size + 1.5, point.group);
      ring(point, size + 1.5, surface, 1.5);
    }
    mark([chosen], size + 3, chosen.group);
    ring(chosen, size + 4, accent, 3);
  }
  for (const point of [at, over]) if (point && isOn(point)) ring(point, size + 4, text, 2);

  const labels = [chosen, ...(shown.length <= LABELLED ? shown : [])].filter(Boolean);
  writeLabels(labels, size, text, surface, width);
  placeTip(width);
  listLater();
}

/** px; grows while zooming in, so that single notes are easier to meet. */
function radius() {
  const first = points.length > 1000 ? 2.8 : 4;
  return Math.min(8, first * Math.max(0.8, Math.sqrt(view.scale / fitScale())));
}

function mark(members, size, group) {
  ink.fillStyle = colourOf(group);
  ink.beginPath();
  for (const point of members) {
    const [x, y] = [across(point), down(point)];
    if (isSquare(group)) ink.rect(x - size * 0.9, y - size * 0.9, size * 1.8, size * 1.8);
    else {
      ink.moveTo(x + size, y);
      ink.arc(x, y, size, 0, 2 * Math.PI);
    }
  }
  ink.fill();
}

function ring(point, size, colour, line) {
  ink.strokeStyle = colour;
  ink.lineWidth = line;
  ink.beginPath();
  ink.arc(across(point), down(point), size, 0, 2 * Math.PI);
  ink.stroke();
}

function writeLabels(labelled, size, text, surface, width) {
  const taken = [];
  ink.lineWidth = 4;
  ink.lineJoin = "round";
  for (const point of new Set(labelled)) {
    if (point === (over ?? at)) continue; // it has the tip
    const words = titleOf(point).length > 34 ? `${titleOf(point).slice(0, 33)}…` : titleOf(point);
    const long = ink.measureText(words).width;
    const x = Math.max(4, Math.min(across(point) - long / 2, width - long - 4));
    const y = down(point) + size + 17;
    if (taken.some((other) => Math.abs(other.y - y) < 16 && x < other.x + other.long + 8 && other.x < x + long + 8)) continue;
    taken.push({ x, y, long });
    ink.strokeStyle = surface;
    ink.strokeText(words, x, y);
    ink.fillStyle = text;
    ink.fillText(words, x, y);
  }
}

function placeTip(width) {
  const point = over ?? at;
  const tip = $("map-tip");
  tip.hidden = !point || !isOn(point) || !inView(point);
  if (tip.hidden) return;
  tip.textContent = titleOf(point);
  const x = Math.max(8, Math.min(across(point) - tip.offsetWidth / 2, width - tip.offsetWidth - 8));
  const above = down(point) - tip.offsetHeight - 14;
  tip.style.transform = `translate(${x}px, ${above > 4 ? above : down(point) + 16}px)`;
}

// ---------------------------------------------------------------- moving

const fitScale = () => {
  if (!box) return 1;
  const across = (canvas.clientWidth - 2 * MARGIN) / (box.width || 1);
  const down = (canvas.clientHeight - 2 * MARGIN) / (box.height || 1);
  return Math.max(1e-6, Math.min(across, down));
};

function fit() {
  whole = true;
  if (!box) return;
  const scale = fitScale();
  view = {
    scale,
    x: canvas.clientWidth / 2 - scale * (box.x + box.width / 2),
    y: canvas.clientHeight / 2 - scale * (box.y + box.height / 2),
  };
  changed();
}

function move(dx, dy) {
  if (!box) return;
  whole = false;
  // Some of the notes always stay in view: nobody gets lost beside the map.
  const keep = (value, size, low, span) =>
    Math.max(60 - view.scale * (low + span), Math.min(value, size - 60 - view.scale * low));
  view.x = keep(view.x + dx, canvas.clientWidth, box.x, box.width);
  view.y = keep(view.y + dy, canvas.clientHeight, box.y, box.height);
  changed();
}

function zoom(factor, x = canvas.clientWidth / 2, y = canvas.clientHeight / 2) {
  const scale = Math.max(fitScale() * 0.6, Math.min(view.scale * factor, fitScale() * 60));
  const real = scale / view.scale;
  view = { scale, x: x - real * (x - view.x), y: y - real * (y - view.y) };
  move(0, 0);
}

function reveal(point) {
  const edge = 60; // px
  const shift = (value, size) => (value < edge ? edge - value : value > size - edge ? size - edge - value : 0);
  const [dx, dy] = [shift(across(point), canvas.clientWidth), shift(down(point), canvas.clientHeight)];
  if (dx || dy) move(dx, dy);
}

/** Goes to a note, without opening it, and says which one it is. */
function goTo(point) {
  at = point;
  $("map-here").replaceChildren(...(point ? [
    categoryOf(point.category) ?? "",
    el("span", { class: "title", text: titleOf(point) }),
    el("a", { class: "button", href: noteLink(point.id), text: t("map.open") }),
  ] : []));
  changed();
}

const openPoint = (point) => { location.hash = noteLink(point.id); };

function nearest(x, y, within = Infinity) {
  let best = null;
  let least = within;
  for (const point of points) {
    const distance = Math.hypot(across(point) - x, down(point) - y);
    if (distance < least && isOn(point)) [best, least] = [point, distance];
  }
  return best;
}

/** The nearest note in a direction; what lies straight ahead counts as nearer than what lies aside. */
function neighbour(from, dx, dy) {
  let best = null;
  let least = Infinity;
  for (const point of points) {
    const [x, y] = [across(point) - across(from), down(point) - down(from)];
    const ahead = x * dx + y * dy;
    const cost = ahead + 2 * Math.abs(x * dy) + 2 * Math.abs(y * dx);
    if (ahead > 0 && cost < least && isOn(point)) [best, least] = [point, cost];
  }
  return best;
}

function keys(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const arrow = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
  const from = at && isOn(at) ? at : null;
  if (arrow && event.shiftKey) move(-60 * arrow[0], -60 * arrow[1]);
  else if (arrow) {
    const start = byId.get(selection.id);
    const next = from ? neighbour(from, ...arrow)
      : start && isOn(start) ? start : nearest(canvas.clientWidth / 2, canvas.clientHeight / 2);
    if (next) {
      reveal(next);
      goTo(next);
    }
  } else if ((event.key === "Enter" || event.key === " ") && from) openPoint(from);
  else if ("+=-_".includes(event.key)) {
    const middle = from && inView(from) ? [across(from), down(from)] : [];
    zoom("+=".includes(event.key) ? 1.4 : 1 / 1.4, ...middle);
  } else if (event.key === "0") fit();
  else if (event.key === "Escape") goTo(null);
  else return;
  event.preventDefault();
}

// ---------------------------------------------------------------- mouse and touch

const fingers = new Map();
let travelled = 0; // px since the first finger came down

const where = (event) => {
  const frame = canvas.getBoundingClientRect();
  return { x: event.clientX - frame.left, y: event.clientY - frame.top };
};
const meant = (event) =>
  nearest(where(event).x, where(event).y, event.pointerType === "mouse" ? NEAR.mouse : NEAR.other);

function press(event) {
  if (event.button !== 0) return;
  canvas.setPointerCapture(event.pointerId);
  if (!fingers.size) travelled = 0;
  fingers.set(event.pointerId, where(event));
}

function drag(event) {
  const before = fingers.get(event.pointerId);
  const now = where(event);
  if (!before) {
    over = event.pointerType === "mouse" ? meant(event) : null;
    canvas.style.cursor = over ? "pointer" : "";
    changed();
    return;
  }
  travelled += Math.hypot(now.x - before.x, now.y - before.y);
  const [other] = [...fingers].filter(([id]) => id !== event.pointerId).map(([, finger]) => finger);
  fingers.set(event.pointerId, now);
  if (other) {
    const apart = (finger) => Math.hypot(finger.x - other.x, finger.y - other.y) || 1;
    zoom(apart(now) / apart(before), (now.x + other.x) / 2, (now.y + other.y) / 2);
    move((now.x - before.x) / 2, (now.y - before.y) / 2);
    travelled = Infinity; // two fingers never tap
  } else if (travelled > 4) move(now.x - before.x, now.y - before.y);
}

function release(event) {
  const pressed = fingers.delete(event.pointerId);
  if (!pressed || event.type !== "pointerup" || travelled > 6) return;
  const point = meant(event);
  // A finger hides what it touches: the first tap says the title, and offers to open.
  if (point && (event.pointerType === "mouse" || point === at)) openPoint(point);
  else goTo(point);
}

// ---------------------------------------------------------------- the list, and the start

function drawList() {
  if (!$("map-list-box").open) return;
  const [x, y] = [canvas.clientWidth / 2, canvas.clientHeight / 2];
  const away = (point) => Math.hypot(across(point) - x, down(point) - y);
  const there = points.filter((point) => isOn(point) && inView(point)).sort((a, b) => away(a) - away(b));
  const listed = there.slice(0, LISTED);
  $("map-list-count").textContent = t("map.listed", { n: listed.length, all: there.length });
  $("map-list").replaceChildren(...listed.map(({ id, title, category }) => noteItem({ note_id: id, title, category })));
}

const listLater = debounce(drawList, 300);

/** Shows or leaves the map; `focus` moves the keyboard there. */
export function showMap(show, focus) {
  const came = show && !visible;
  visible = show;
  if (!show) {
    clearTimeout(waiting);
    return;
  }
  if (came || !points.length) load();
  if (whole) fit();
  const chosen = byId.get(selection.id);
  if (chosen && selection.id !== shownSelection && !inView(chosen)) {
    move(canvas.clientWidth / 2 - across(chosen), canvas.clientHeight / 2 - down(chosen));
  }
  shownSelection = selection.id;
  if (focus) canvas.focus({ preventScroll: true });
}

export function startMap() {
  canvas.addEventListener("pointerdown", press);
  canvas.addEventListener("pointermove", drag);
  canvas.addEventListener("pointerup", release);
  canvas.addEventListener("pointercancel", release);
  canvas.addEventListener("pointerleave", () => {
    over = null;
    changed();
  });
  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    const { x, y } = where(event);
    zoom(Math.exp(-event.deltaY * (event.deltaMode ? 0.03 : 0.0015)), x, y);
  }, { passive: false });
  canvas.addEventListener("keydown", keys);
  $("map-in").addEventListener("click", () => zoom(1.5));
  $("map-out").addEventListener("click", () => zoom(1 / 1.5));
  $("map-fit").addEventListener("click", fit);
  $("map-list-box").addEventListener("toggle", drawList);
  new ResizeObserver(() => (whole && visible ? fit() : changed())).observe($("map-frame"));
}
