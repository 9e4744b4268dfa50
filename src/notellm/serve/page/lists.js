// Parts of the page that are filled from the server, and how notes look in lists.

import { askAgain, explain, get } from "./api.js";
import { colourOf, isSquare } from "./colours.js";
import { $, arrowKeys, debounce, el, noteLink, onText } from "./dom.js";
import { number, t } from "./i18n.js";

const LIMIT = 20; // of one search

/**
 * A part of the page that is filled from the server: `#NAME`, or the given box, with a status line `#NAME-status`.
 *
 * `fill(ask, draw)` calls `ask(signal)` for the answer of the server, and then `draw(answer, box)`, which puts the
 * elements into the box and returns the words of the status line. A newer call cancels the older one. The former
 * content stays until the new one has arrived, and is drawn again when the language changes.
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
    // Only a slow answer is announced.
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

  /** Empties the box; the status line shows the words of `key`, or nothing. */
  function clear(key) {
    stop();
    drawn(() => (key ? t(key) : ""), null);
  }

  document.addEventListener("redraw", () => redraw());
  return { box, fill, clear, stop };
}

/** A dot in the colour of a category. */
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

/** The title of a note everywhere on the page: its title, the beginning of its content, or a word for neither. */
export const titleOf = (note) => note.title || note.content?.slice(0, 80) || t("untitled");

/** An entry of a list that links to a note. */
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

/** Returns the length of the bar of each score, 0 to 1. */
export function shares(scores) {
  // Similarities and probabilities are shown as they are; of other scores only differences mean something.
  if (scores.every((score) => score >= 0 && score <= 1)) return scores;
  const low = Math.min(...scores);
  const span = Math.max(...scores) - low || 1;
  return scores.map((score) => 0.1 + (0.9 * (score - low)) / span);
}

/**
 * A search field `#INPUT` with its results: the list `#NAME-results`, inside `#NAME-found`, and the words NAME.*.
 * The server is asked for `path`; `item(entry)` makes the element of one result.
 */
export function searchable(input, name, path, item) {
  const results = place(`${name}-results`);
  const found = $(`${name}-found`);
  let current = null;

  function draw(answered, box) {
    const items = answered[path];
    box.append(...items.map(item));
    mark(current);
    // On a narrow screen a long list is folded at first.
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

  /** Marks the result that is open; on a narrow screen it hides the list until the next search. */
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
