// The card of the state that says how many of the recommended notes were opened, by source, position and day.

import { el } from "./dom.js";
import { figures, percent } from "./figures.js";
import { addWords, calendarDay, number, t } from "./i18n.js";

addWords({
  "through.heading": ["Recommendations opened", "推荐打开率"],
  "through.days": [{ one: "Lists of the last day", other: "Lists of the last {n} days" }, "最近 {n} 天的推荐"],
  "through.source": ["Source", "来源"],
  "through.position": ["Position", "位置"],
  "through.day": ["Day", "日期"],
  "through.shown": ["Shown", "展示"],
  "through.clicked": ["Opened", "打开"],
  "through.rate": ["Share", "比例"],
  "through.recall": ["Near an opened note", "与打开过的相近"],
  "through.popular": ["Popular", "热门"],
  "through.fresh": ["Fresh", "最新"],
  "through.later": ["{n} and later", "{n} 及以后"],
  "through.none": ["Nothing has been recommended in these days.", "这些天没有推荐过笔记。"],
});

const SINGLE = 10; // positions with a row of their own; those after them share one

function table(heading, rows) {
  return figures(
    [heading, t("through.shown"), t("through.clicked"), t("through.rate")],
    rows.map(({ name, shown, clicked }) => [name, number(shown), number(clicked), percent(shown ? clicked / shown : 0)]),
  );
}

function byPosition(rows) {
  const place = ({ position }) => Number.parseInt(position, 10); // "21+" is 21
  const first = rows.filter((row) => place(row) <= SINGLE).map((row) => ({ ...row, name: number(place(row)) }));
  const later = rows.filter((row) => place(row) > SINGLE);
  if (!later.length) return first;
  const sum = (field) => later.reduce((total, row) => total + row[field], 0);
  return [...first, { name: t("through.later", { n: SINGLE + 1 }), shown: sum("shown"), clicked: sum("clicked") }];
}

/** Returns the content of the card. */
export function clickThrough({ days, by_source: sources, by_position: positions, by_day: each }) {
  const named = sources.map((row) => ({ ...row, name: t(`through.${row.source}`) }));
  const dated = each.filter((row) => row.shown).map((row) => ({ ...row, name: calendarDay(row.day) }));
  return [
    el("h2", { text: t("through.heading") }),
    el("p", { class: "muted", text: t("through.days", { n: days }) }),
    ...(sources.length
      ? [table(t("through.source"), named), table(t("through.position"), byPosition(positions)), table(t("through.day"), dated)]
      : [el("p", { class: "muted", text: t("through.none") })]),
  ];
}
