// The notes: search one or write one, and see what it is related to.

import { call, explain, get, notePath, post } from "./api.js";
import { $, confirmed, debounce, el, noteLink, onText, toast } from "./dom.js";
import { date, t } from "./i18n.js";
import { categoryOf, noteItem, place, searchable, shares, titleOf, topicsOf } from "./lists.js";

const RELATED = 10;

/** The note that was opened last, and the notes related to it; the map shows them. */
export const selection = { id: null, related: [] };

const found = searchable("search", "search", "notes", (note) => noteItem(note));
const opened = place("note", $("note-body"));
const related = place("related");
const tags = place("tags", $("tags"), () => drawTags(null));

let shown = null; // the id of the note in view; null while writing
let shownTitle = "";

export const titleInView = () => shownTitle;

// ---------------------------------------------------------------- related notes

function drawRelated({ related: notes }, box) {
  const widths = shares(notes.map((note) => note.score));
  box.append(...notes.map((note, i) => noteItem(note, { share: widths[i] })));
  return notes.length ? t("related.count", { n: notes.length }) : t("related.none");
}

async function relatedTo(id) {
  const path = `related?note_id=${encodeURIComponent(id)}&k=${RELATED}`;
  const answer = await related.fill((signal) => get(path, signal), drawRelated);
  if (answer) selection.related = answer.related.map((note) => note.note_id);
}

// ---------------------------------------------------------------- one note

/** Opens a note; null goes back to writing. `focus` moves the keyboard there. */
export async function openNote(id, focus) {
  const same = id === shown;
  shown = id;
  if (!same) shownTitle = "";
  $("note").hidden = id === null;
  $("write").hidden = id !== null;
  $("notes-columns").classList.toggle("chosen", id !== null);
  found.mark(id);
  if (id === null) {
    opened.clear();
    live();
    if (focus) $("write-title").focus();
    return;
  }
  write.cancel();
  tags.stop();
  if (!same) related.clear();
  if (id !== selection.id) Object.assign(selection, { id, related: [] });
  relatedTo(id);
  const before = document.activeElement;
  await opened.fill((signal) => get(notePath(id), signal), drawNote);
  const heading = $("note-heading");
  // Who has gone elsewhere while the note was on its way stays there.
  if (!focus || !heading || ![before, document.body].includes(document.activeElement)) return;
  heading.focus({ preventScroll: true });
  $("note").scrollIntoView({ block: "nearest" });
}

function drawNote(note, box) {
  const title = titleOf(note);
  shownTitle = title;
  document.dispatchEvent(new Event("opened"));
  const button = (name, key, action, kind = "quiet") =>
    el("button", { type: "button", class: kind, id: name, "data-testid": name, text: t(key), onclick: action });
  const when = (key, iso) => (iso ? el("time", { datetime: iso, text: t(key, { when: date(iso) }) }) : null);
  box.append(el("div", {},
    el("div", { class: "facts" },
      categoryOf(note.category), note.hidden ? el("span", { class: "badge", text: t("hidden") }) : null,
      when("note.published", note.published_at), when("note.expires", note.expires_at)),
    el("h2", { id: "note-heading", "data-testid": "note-heading", tabindex: "-1", dir: "auto", text: title }),
    note.content ? el("p", { class: "content", id: "note-content", dir: "auto", text: note.content }) : null,
    note.topics?.length ? topicsOf(note.topics) : null,
    el("p", { class: "muted id", text: t("note.id", { id: note.note_id }) }),
    el("div", { class: "actions" },
      el("a", { class: "button", href: "#/map", text: t("note.map") }),
      button("note-hide", note.hidden ? "note.unhide" : "note.hide", () => hide(note)),
      button("note-delete", "note.delete", () => remove(note), "quiet danger"))));
  return "";
}

async function hide(note) {
  const hidden = !note.hidden;
  try {
    await call("PATCH", notePath(note.note_id), { hidden });
  } catch (error) {
    toast(explain(error));
    return;
  }
  toast(t(hidden ? "note.hidden" : "note.unhidden"));
  found.search();
  if (shown !== note.note_id) return;
  await openNote(note.note_id, false);
  $("note-hide")?.focus({ preventScroll: true });
}

async function remove(note) {
  if (!await confirmed(t("note.sure", { title: titleOf(note) }), t("note.delete"))) return;
  try {
    await call("DELETE", notePath(note.note_id));
  } catch (error) {
    toast(explain(error));
    return;
  }
  toast(t("note.deleted"));
  if (selection.id === note.note_id) Object.assign(selection, { id: null, related: [] });
  found.search();
  // The deleted note is no place to come back to.
  location.replace("#/notes");
  $("search").focus();
}

// ---------------------------------------------------------------- writing

let generated = null; // {text, category, topics}: what the model wrote, and for which text

const draft = () => ({ title: $("write-title").value.trim(), content: $("write-content").value.trim() });
const textOf = ({ title, content }) => `${title}\n${content}`;
const isEmpty = ({ title, content }) => !title && !content;

function drawTags(answer) {
  $("tags-category").replaceChildren(categoryOf(answer?.category) ?? (answer ? t("none") : "–"));
  const topics = answer?.topics ?? [];
  $("tags-topics").replaceChildren(topics.length ? topicsOf(topics) : answer ? t("none") : "–");
  return "";
}

/** Related notes and tags of what is being written, as it is now. */
function live() {
  const note = draft();
  $("write-status").replaceChildren();
  if (isEmpty(note)) {
    generated = null;
    related.clear("related.idle");
    tags.clear();
    drawTags(null);
    return;
  }
  related.fill((signal) => post("related", { ...note, k: RELATED }, signal), drawRelated);
  tags.fill(async (signal) => {
    const text = textOf(note);
    generated = { text, ...await post("tags", note, signal) };
    return generated;
  }, drawTags);
}

const write = debounce(live, 300);

function clearDraft() {
  for (const name of ["write-title", "write-content", "write-id"]) $(name).value = "";
  write.cancel();
  live();
}

// Random numbers, not randomUUID: that one is missing where the page is not served over HTTPS.
const madeUpId = () =>
  `note-${[...crypto.getRandomValues(new Uint8Array(6))].map((byte) => byte.toString(16).padStart(2, "0")).join("")}`;

async function exists(id) {
  try {
    await get(notePath(id));
    return true;
  } catch (error) {
    if (error.status === 404) return false;
    throw error;
  }
}

/** The tags of exactly this text; none if the model cannot write them: that is no reason not to publish. */
async function tagsOf(note) {
  if (!$("tags-use").checked) return {};
  if (generated?.text === textOf(note)) return generated;
  try {
    return await post("tags", note);
  } catch {
    return {};
  }
}

async function publish(event) {
  event.preventDefault();
  const note = draft();
  if (isEmpty(note)) {
    $("write-status").replaceChildren(el("span", { class: "error", text: t("write.needs") }));
    $("write-title").focus();
    return;
  }
  $("publish").disabled = true;
  try {
    const own = $("write-id").value.trim();
    if (own && await exists(own) && !await confirmed(t("write.exists", { id: own }), t("write.replace"))) return;
    const { topics = [], category } = await tagsOf(note);
    const id = own || madeUpId();
    const { created } = await call("PUT", notePath(id), {
      ...note, topics, category: category ?? "", published_at: new Date().toISOString(),
    });
    toast(t(created ? "write.done" : "write.replaced"));
    clearDraft();
    found.search();
    location.hash = noteLink(id);
  } catch (error) {
    $("write-status").replaceChildren(el("span", { class: "error", text: explain(error) }));
  } finally {
    $("publish").disabled = false;
  }
}

// ---------------------------------------------------------------- start

export function startNotes() {
  onText($("write-title"), write);
  onText($("write-content"), write);
  document.addEventListener("again", found.search);
  $("write-title").addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.isComposing) return;
    event.preventDefault(); // nobody means to publish with the title just written
    $("write-content").focus();
  });
  $("write").addEventListener("submit", publish);
  $("write-clear").addEventListener("click", () => {
    clearDraft();
    $("write-title").focus();
  });
  found.search();
}
