// The cards of the state that say how far the models are behind: their age, what they have not seen, recall on
// the latest clicks, and how the last renewal ended.

import { el } from "./dom.js";
import { figures, percent } from "./figures.js";
import { addWords, calendarDay, date, duration, number, t } from "./i18n.js";

addWords({
  "drift.heading": ["Drift", "漂移"],
  "drift.written": ["Age of the model", "模型时长"],
  "drift.serves": ["Serving for", "已服务"],
  "drift.notes": ["Notes it was not trained on", "未参与训练的笔记"],
  "drift.users": [
    { one: "Unknown users of the last day", other: "Unknown users of the last {n} days" },
    "最近 {n} 天的未知用户",
  ],
  "drift.part": ["{share} ({part} of {whole})", "{share}（{whole} 中的 {part}）"],
  "drift.now": ["less than a minute", "不到一分钟"],
  "drift.unknown": ["not known", "未知"],
  "drift.unknown.notes": [
    "The model directory does not say which notes it was trained on.",
    "模型目录没有说明它用哪些笔记训练。",
  ],

  "latest.heading": ["Recall on the latest clicks", "最近点击的召回率"],
  "latest.about": [
    "Of sampled clicks on notes: was the note among the {n} candidates of what the user had opened before? Measured since {time}.",
    "对抽样的点击：该笔记是否在用户此前打开内容的 {n} 个候选中？自 {time} 起测量。",
  ],
  "latest.elsewhere": ["Clicks that name no list", "未注明推荐列表的点击"],
  "latest.list": ["Clicks that name a list, which recall mostly made", "注明推荐列表的点击（列表大多来自召回）"],
  "latest.day": ["Day", "日期"],
  "latest.samples": ["Clicks", "点击"],
  "latest.found": ["Found", "找到"],
  "latest.rate": ["Recall", "召回率"],
  "latest.none": ["No click has been measured yet.", "还没有测量过点击。"],

  "renewal.heading": ["Last renewal", "上次更新"],
  "renewal.at": ["Decided", "决定时间"],
  "renewal.outcome": ["Outcome", "结果"],
  "renewal.took": ["The new models took over", "新模型已接替"],
  "renewal.stayed": ["The serving models stayed", "保留原模型"],
  "renewal.figure": ["Figure", "指标"],
  "renewal.serving": ["Before", "原模型"],
  "renewal.renewed": ["New", "新模型"],
  "renewal.none": ["There is no decision of a renewal beside the model.", "模型旁没有更新的决定。"],
});

const pairs = (...rows) =>
  el("dl", { class: "pairs worded" }, ...rows.flatMap(([key, value]) => [el("dt", { text: key }), el("dd", { text: value })]));

function age(time) {
  if (time === null) return t("drift.unknown");
  const minutes = Math.floor((Date.now() - new Date(time)) / 60000); // a card that changes every second is hard to read
  return minutes < 1 ? t("drift.now") : duration(60 * minutes);
}

const part = (share, few, whole) =>
  few === null ? t("drift.unknown") : t("drift.part", { share: percent(share ?? 0), part: few, whole });

/** Returns the content of the card of the age of the models, and of what they have not seen. */
export function drift({ days, model, notes, users }) {
  return [
    el("h2", { text: t("drift.heading") }),
    pairs(
      [t("drift.written"), age(model.written_at)],
      [t("drift.serves"), age(model.serves_since)],
      [t("drift.notes"), part(notes.share, notes.unseen, notes.visible)],
      ...(users.unknown === null ? [] : [[t("drift.users", { n: days }), part(users.share, users.unknown, users.active)]]),
    ),
    ...(notes.unseen === null ? [el("p", { class: "muted", text: t("drift.unknown.notes") })] : []),
  ];
}

/** Returns the content of the card of recall on the latest clicks. */
export function latestRecall({ recall }) {
  const rows = (origin) => recall.by_day.filter((day) => day[origin].samples).map((day) =>
    [calendarDay(day.day), number(day[origin].samples), number(day[origin].found), percent(day[origin].rate)]);
  const heads = ["latest.day", "latest.samples", "latest.found", "latest.rate"].map((key) => t(key));
  const tables = ["elsewhere", "list"].map((origin) => [t(`latest.${origin}`), rows(origin)]).filter(([, found]) => found.length);
  return [
    el("h2", { text: t("latest.heading") }),
    el("p", { class: "muted", text: t("latest.about", { n: recall.candidates, time: date(recall.since) }) }),
    ...(tables.length
      ? tables.map(([caption, found]) => figures(heads, found, caption))
      : [el("p", { class: "muted", text: t("latest.none") })]),
  ];
}

/** Returns the content of the card of the newest decision of a renewal. */
export function lastRenewal({ renewal }) {
  const heading = el("h2", { text: t("renewal.heading") });
  if (!renewal) return [heading, el("p", { class: "muted", text: t("renewal.none") })];
  const rows = renewal.figures.map((each) => [`${each.figure} (${each.list})`, percent(each.serving), percent(each.renewed)]);
  const heads = ["renewal.figure", "renewal.serving", "renewal.renewed"].map((key) => t(key));
  return [
    heading,
    pairs(
      [t("renewal.at"), date(renewal.at)],
      [t("renewal.outcome"), t(renewal.took_over ? "renewal.took" : "renewal.stayed")],
    ),
    ...renewal.reasons.map((text) => el("p", { class: "muted", text })),
    ...(rows.length ? [figures(heads, rows)] : []),
  ];
}
