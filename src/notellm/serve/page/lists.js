// Places that are filled from the server: loading, empty, filled or failed; and what notes look like in them.

import { askAgain, explain, get } from "./api.js";
import { colourOf, isSquare } from "./colours.js";
import { $, arrowKeys, debounce, el, noteLink, onText } from "./dom.js";
import { number, t } from "./i18n.js";

const LIMIT = 20; // of one search

/**
 * A place, `#NAME` unless another box is given, with a line `#NAME-status` above it.
 *
 * `fill(ask, draw)` asks the server, `ask(signal)`, and draws the answer: `draw(answer, box)` puts the
 * elements into the box and returns the words of the status line. A newer call drops the older one. What
 * was drawn stays until its successor is there, and is drawn anew when the language changes.
 */
export function place(name, box = $(name), empty = () => box.replaceChildren()) {
  const status = $(`${name}-status`);
  let running = null;
  let redraw = () => {};

  const write = (...children) => status.replaceChildren(...children);

  function drawn(draw, answered) {
    redraw = () => {
      empty();
      write(draw(answered, box) ?? "");
    };
    redraw();
  }

  async function fill(ask, draw) {
    stop();
    running = new AbortController();
    const { signal } = running;
    box.setAttribute("aria-busy", "true");
    // A quick answer needs no word; a slow one does.
    const slow = setTimeout(() => write(t("loading")), box.childElementCount ? 1500 : 250);
    try {
      const answered = await ask(signal);
      if (!signal.aborted) drawn(draw, answered);
      return signal.aborted ? null : answered;
    } catch (error) {
      if (signal.aborted) return null;
      redraw = () => {
        empty();
        const again = () => {
          askAgain();
          write(t("loading"));
          fill(ask, draw);
        };
        const words = t(error.status === 401 ? "key.enter" : "retry");
        write(el("span", { class: "error", text: explain(error) }),
          el("button", { type: "button", class: "quiet", text: words, onclick: again }));
      };
      redraw();
      return null;
    } finally {
      clearTimeout(slow);
      if (running?.signal === signal) {
        running = null;
        box.removeAttribute("aria-busy");
      }
    }
  }

  function stop() {
    running?.abort();
    running = null;
    box.removeAttribute("aria-busy");
  }

  /** Empties the place and says `key`, or nothing. */
  function clear(key) {
    stop();
    drawn(() => (key ? t(key) : ""), null);
  }

  document.addEventListener("redraw", () => redraw());
  return { box, fill, clear, stop };
}

/** The colour of a category, which may be one of a group of them. */
export function dot(category) {
  const shape = isSquare(category) ? "dot square" : "dot";
  return el("span", { class: shape, style: { background: colourOf(category) }, "aria-hidden": "true" });
}

export function categoryOf(category) {
  return category ? el("span", { class: "category" }, dot(category), category) : null;
}

export function topicsOf(topics) {
  return el("ul", { class: "topics" }, ...topics.map((topic) => el("li", { text: topic })));
}

export const titleOf = (note) => note.title || note.content?.slice(0, 80) || t("untitled");

/** A line of a list that leads to a note. */
export function noteItem(note, { share = null, reason = null } = {}) {
  const below = el("span", { class: "below" }, categoryOf(note.category),
    note.hidden ? el("span", { class: "badge", text: t("hidden") }) : null);
  const link = el("a", { href: noteLink(note.note_id) },
    el("span", { class: "title", text: titleOf(note), dir: "auto" }), below);
  if (share !== null) {
    const score = number(note.score, { minimumFractionDigits: 3, maximumFractionDigits: 3 });
    below.append(el("span", { class: "score" },
      el("span", { class: "bar", "aria-hidden": "true" }, el("span", { style: { width: `${100 * share}%` } })),
      el("span", { class: "unseen", text: `${t("score", { score })} ` }),
      el("span", { text: score, "aria-hidden": "true" })));
  }
  if (reason) link.append(el("span", { class: "reason", text: reason }));
  return el("li", { "data-note-id": note.note_id }, link);
}

/** How long the bar of each score is, 0 to 1. */
export function shares(scores) {
  // Similarities have a scale of their own; of other scores only differences mean something.
  if (scores.every((score) => score >= 0 && score <= 1)) return scores;
  const low = Math.min(...scores);
  const span = Math.max(...scores) - low || 1;
  return scores.map((score) => 0.1 + (0.9 * (score - low)) / span);
}

/**
 * A search field with the list of what it finds: `#INPUT`, `#NAME-results`, `#NAME-found` around that, and
 * the words NAME.*; the server is asked for `path`, and `item(one)` draws one of its answer.
 */
export function searchable(input, name, path, item) {
  const results = place(`${name}-results`);
  const found = $(`${name}-found`);
  let current = null;

  function draw(answered, box) {
    const items = answered[path];
    box.append(...items.map(item));
    mark(current);
    // On a narrow screen a long list begins folded.
    found.classList.toggle("long", items.length > 5);
    found.classList.remove("whole");
    const q = $(input).value.trim();
    if (!items.length) return q ? t(`${name}.none`, { q }) : t(`${name}.empty`);
    return q ? t(`${name}.${items.length < LIMIT ? "found" : "first"}`, { n: items.length }) : t(`${name}.all`);
  }

  function search() {
    const q = encodeURIComponent($(input).value.trim());
    return results.fill((signal) => get(`${path}?q=${q}&limit=${LIMIT}`, signal), draw);
  }

  /** Marks what is open; on a narrow screen the list gives way to it until it is searched again. */
  function mark(id) {
    if (id !== current) found.classList.remove("asked");
    current = id;
    for (const { dataset, firstElementChild: link } of results.box.children) {
      if (id !== null && (dataset.noteId ?? dataset.userId) === id) link.setAttribute("aria-current", "true");
      else link.removeAttribute("aria-current");
    }
  }

  const later = debounce(search, 200);
  const ask = () => found.classList.add("asked");
  onText($(input), () => {
    ask();
    later();
  });
  $(input).addEventListener("focus", ask);
  $(`${name}-more`).addEventListener("click", () => found.classList.add("whole"));
  arrowKeys($(input), results.box);
  return { search, mark };
}
