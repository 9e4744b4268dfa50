// The state of the server, asked again every few seconds while somebody looks.

import { askAgain, explain, forgetKey, get, hasKey } from "./api.js";
import { $, el, toast } from "./dom.js";
import { clock, duration, number, t } from "./i18n.js";

const EVERY = 3000; // ms

let open = false;
let timer;
let last = null; // {state, time}
const drawn = new Map();

const orUnknown = (value, write) => (value === null || value === undefined ? t("state.unknown") : write(value));
const milliseconds = (value) =>
  number(value, { style: "unit", unit: "millisecond", maximumFractionDigits: value < 10 ? 1 : 0 });
const code = (text) => el("code", { text });

function rowsOf({ version, ready, keys, model, ranker, store, index, traffic }) {
  return {
    server: [
      ["state.status", t(ready ? "state.ready" : "state.starting")],
      ["state.version", version],
      ["state.uptime", duration(traffic.uptime_s)],
      ["state.keys", t(keys ? "state.keys.yes" : "state.keys.no")],
    ],
    model: model && [
      ["state.backbone", model.backbone],
      ["state.dim", number(model.dim)],
      ["state.categories", number(model.categories.length)],
      ["state.fingerprint", model.fingerprint, code],
    ],
    store: store && [
      ["state.notes", number(store.notes)],
      ["state.hidden", number(store.hidden)],
    ],
    index: index && [
      ["state.kind", t(`state.kind.${index.kind}`)],
      ["state.notes", number(index.notes)],
      ["state.recall", orUnknown(index.recall, (share) => number(share, { style: "percent", maximumFractionDigits: 1 }))],
    ],
    ranker: [
      ranker?.users !== undefined && ["state.users", number(ranker.users)],
      ranker?.fingerprint !== undefined && ["state.fingerprint", ranker.fingerprint, code],
    ].filter(Boolean),
    traffic: [
      ["state.per_second", number(traffic.per_second, { maximumFractionDigits: 2 })],
      ["state.p50", orUnknown(traffic.p50_ms, milliseconds)],
      ["state.p99", orUnknown(traffic.p99_ms, milliseconds)],
      ["state.in_flight", number(traffic.in_flight)],
      ["state.refused", number(traffic.refused)],
      ["state.failed", number(traffic.failed)],
    ],
    requests: Object.entries(traffic.requests).sort((a, b) => b[1] - a[1]).map(([name, count]) =>
      [name, number(count), null, count]),
  };
}

function card(name, rows) {
  const most = Math.max(1, ...rows.map((row) => row[3] ?? 0));
  const line = ([key, value, write, count]) => {
    const words = key.startsWith("state.") ? t(key) : key;
    const bar = count === undefined ? null : el("span", { class: "bar", "aria-hidden": "true" },
      el("span", { style: { width: `${(100 * count) / most}%` } }));
    return [el("dt", { text: words }), el("dd", {}, bar, write ? write(value) : value)];
  };
  const empty = t(name === "ranker" ? "state.none" : "state.quiet");
  return [
    el("h2", { text: t(`state.${name}`) }),
    rows.length ? el("dl", { class: "pairs" }, ...rows.flatMap(line)) : el("p", { class: "muted", text: empty }),
  ];
}

function draw() {
  if (!last) return;
  for (const [name, rows] of Object.entries(rowsOf(last.state))) {
    if (!rows) continue;
    if (!$(`state-${name}`)) $("state").append(el("section", { class: "card", id: `state-${name}` }));
    // A card that says the same is left alone: somebody may be selecting text in it.
    const children = card(name, rows);
    const words = children.map((child) => child.outerHTML).join("");
    if (drawn.get(name) !== words) $(`state-${name}`).replaceChildren(...children);
    drawn.set(name, words);
  }
  $("state-when").textContent = t("state.updated", { time: clock(last.time) });
  $("forget-key").hidden = !hasKey();
}

async function refresh() {
  clearTimeout(timer);
  if (!open || document.hidden) return;
  try {
    last = { state: await get("state"), time: new Date() };
    $("state-status").replaceChildren();
    draw();
  } catch (error) {
    const again = () => {
      askAgain();
      refresh();
    };
    $("state-status").replaceChildren(el("span", { class: "error", text: explain(error) }),
      el("button", { type: "button", class: "quiet", text: t(error.status === 401 ? "key.enter" : "retry"), onclick: again }));
    if (error.status === 401) return; // nothing changes before somebody gives a key
  }
  clearTimeout(timer);
  timer = setTimeout(refresh, EVERY);
}

export function showState(visible) {
  open = visible;
  refresh();
}

export function startState() {
  document.addEventListener("visibilitychange", refresh);
  document.addEventListener("redraw", draw);
  $("forget-key").addEventListener("click", () => {
    forgetKey();
    draw();
    toast(t("key.forgotten"));
  });
}
