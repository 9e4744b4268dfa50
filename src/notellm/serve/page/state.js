// The view of the state of the server, which is refreshed every few seconds while it is visible.

import { askAgain, explain, forgetKey, get, hasKey } from "./api.js";
import { clickThrough } from "./click-through.js";
import { $, el, toast } from "./dom.js";
import { drift, lastRenewal, latestRecall } from "./drift.js";
import { clock, duration, number, t } from "./i18n.js";
import { addView } from "./views.js";

const WORDS = {
  "tab.state": ["State", "状态"],

  "state.server": ["Server", "服务"],
  "state.model": ["Model", "模型"],
  "state.index": ["Index", "索引"],
  "state.store": ["Notes", "笔记"],
  "state.ranker": ["Ranker", "排序模型"],
  "state.traffic": ["Traffic", "流量"],
  "state.requests": ["Requests", "请求"],
  "state.status": ["Status", "状态"],
  "state.ready": ["Ready", "就绪"],
  "state.unready": ["Not ready: {reason}", "未就绪：{reason}"],
  "state.version": ["Version", "版本"],
  "state.uptime": ["Running for", "已运行"],
  "state.keys": ["API keys", "API 密钥"],
  "state.keys.yes": ["Needed", "需要"],
  "state.keys.no": ["Not needed", "不需要"],
  "state.backbone": ["Backbone", "基座模型"],
  "state.dim": ["Vector length", "向量维度"],
  "state.categories": ["Categories", "类别数"],
  "state.fingerprint": ["Fingerprint", "指纹"],
  "state.kind": ["Kind", "类型"],
  "state.kind.hnsw": ["HNSW (approximate)", "HNSW（近似）"],
  "state.kind.exact": ["Exact", "精确"],
  "state.kind.milvus": ["Milvus", "Milvus"],
  "state.recall": ["Recall of the index", "索引召回率"],
  "state.unknown": ["not measured", "未测量"],
  "state.notes": ["Notes", "笔记数"],
  "state.hidden": ["Hidden", "已隐藏"],
  "state.users": ["Known users", "已知用户数"],
  "state.none": ["This server has no ranker, so it makes no recommendations.", "此服务没有排序模型，不为用户推荐。"],
  "state.per_second": ["Requests per second", "每秒请求"],
  "state.p50": ["Half are answered within", "半数请求耗时不超过"],
  "state.p99": ["99% are answered within", "99% 请求耗时不超过"],
  "state.in_flight": ["In progress", "处理中"],
  "state.refused": ["Refused", "已拒绝"],
  "state.failed": ["Failed", "失败"],
  "state.quiet": ["No requests yet.", "还没有请求。"],
  "state.updated": ["Updated at {time}. Refreshed every few seconds while this page is visible.", "更新于 {time}，页面可见时每隔几秒刷新。"],
};

const PANEL = `
  <h1 class="unseen" data-t="tab.state"></h1>
  <div class="status" id="state-status" role="status"></div>
  <div class="cards" id="state" data-testid="state"></div>
  <p class="muted foot"><span id="state-when"></span><button type="button" class="quiet" id="forget-key" hidden data-t="key.forget"></button></p>
`;

addView({ name: "state", words: WORDS, panel: PANEL, start, show: () => setOpen(true), leave: () => setOpen(false) });

const EVERY = 3000; // ms

let open = false;
let timer;
let last = null; // {state, time}
const drawn = new Map();

const orUnknown = (value, write) => (value === null || value === undefined ? t("state.unknown") : write(value));
const milliseconds = (value) =>
  number(value, { style: "unit", unit: "millisecond", maximumFractionDigits: value < 10 ? 1 : 0 });
const code = (text) => el("code", { text });

function rowsOf({ version, ready, not_ready: reason, keys, model, ranker, store, index, traffic }) {
  return {
    server: [
      ["state.status", ready ? t("state.ready") : t("state.unready", { reason })],
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

function cardsOf(state) {
  const cards = Object.entries(rowsOf(state)).filter(([, rows]) => rows).map(([name, rows]) => [name, card(name, rows)]);
  cards.push(["drift", drift(state.drift)], ["renewal", lastRenewal(state.drift)]);
  if (!state.ranker) return cards;
  return [...cards, ["click-through", clickThrough(state.click_through)], ["latest-recall", latestRecall(state.drift)]];
}

function draw() {
  if (!last) return;
  for (const [name, children] of cardsOf(last.state)) {
    if (!$(`state-${name}`)) $("state").append(el("section", { class: "card", id: `state-${name}` }));
    // A card that has not changed is not redrawn: somebody may be selecting text in it.
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
    if (error.status === 401) return; // asking again is of no use before a key is entered
  }
  clearTimeout(timer);
  timer = setTimeout(refresh, EVERY);
}

function setOpen(visible) {
  open = visible;
  refresh();
}

function start() {
  document.addEventListener("visibilitychange", refresh);
  document.addEventListener("redraw", draw);
  $("forget-key").addEventListener("click", () => {
    forgetKey();
    draw();
    toast(t("key.forgotten"));
  });
}
