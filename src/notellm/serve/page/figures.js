// Tables of figures, which several cards of the state show.

import { el } from "./dom.js";
import { number } from "./i18n.js";

export const percent = (share) => number(share, { style: "percent", maximumFractionDigits: 1 });

/** Returns a table: words of its columns, rows of words whose first one names the row, and perhaps a caption. */
export function figures(columns, rows, caption = null) {
  return el("table", { class: "figures" },
    caption === null ? null : el("caption", { text: caption }),
    el("thead", {}, el("tr", {}, ...columns.map((text) => el("th", { scope: "col", text })))),
    el("tbody", {}, ...rows.map(([name, ...values]) =>
      el("tr", {}, el("th", { scope: "row", text: name }), ...values.map((text) => el("td", { text }))))));
}
