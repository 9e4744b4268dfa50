// The view of notes: find or write a note, and see its related notes.

import { call, explain, get, notePath, post } from "./api.js";
import { $, confirmed, debounce, el, noteLink, onText, toast } from "./dom.js";
import { date, number, t } from "./i18n.js";
import { categoryOf, noteItem, place, searchable, shares, titleOf, topicsOf } from "./lists.js";
import { PANEL as TAGS, accepted, drawTags, forgetChoices } from "./tags.js";
import { addView } from "./views.js";

const WORDS = {
  "tab.notes": ["Notes", "笔记"],

  "search.label": ["Find a note", "查找笔记"],
  "search.hint": ["Words from the title", "标题中的文字"],
  "search.results": ["Notes found", "找到的笔记"],
  "search.all": ["The newest notes", "最新的笔记"],
  "search.found": [{ one: "{n} note found", other: "{n} notes found" }, "找到 {n} 篇笔记"],
  "search.first": ["The first {n} notes found", "找到的前 {n} 篇笔记"],
  "search.none": ["No note has “{q}” in its title.", "没有标题包含“{q}”的笔记。"],
  "search.empty": ["There are no notes yet. Write the first one.", "还没有笔记，来写第一篇吧。"],

  "write.link": ["Write a note", "写笔记"],
  "write.heading": ["Write a note", "写笔记"],
  "write.intro": ["Its related notes, topics and category appear while you type.", "输入时会实时显示相关笔记、话题和类别。"],
  "write.title": ["Title", "标题"],
  "write.title.hint": ["What is it about?", "写点什么？"],
  "write.content": ["Content", "正文"],
  "write.content.hint": ["A few sentences", "几句话即可"],
  "write.own": ["Choose the id yourself", "自己指定编号"],
  "write.id": ["Id", "编号"],
  "write.id.hint": ["Leave this empty to get a generated id.", "留空则自动生成。"],
  "write.publish": ["Publish", "发布"],
  "write.clear": ["Clear", "清空"],
  "write.needs": ["Write a title or some content first.", "请先写标题或正文。"],
  "write.exists": ["A note with the id “{id}” already exists. Replace it?", "编号“{id}”的笔记已存在，要替换它吗？"],
  "write.replace": ["Replace", "替换"],
  "write.done": ["Published.", "已发布。"],
  "write.replaced": ["Replaced.", "已替换。"],

  "note.published": ["Published {when}", "发布于{when}"],
  "note.expires": ["Expires {when}", "{when}过期"],
  "note.id": ["Id {id}", "编号 {id}"],
  "note.map": ["Show on the map", "在地图上显示"],
  "note.hide": ["Hide", "隐藏"],
  "note.unhide": ["Unhide", "取消隐藏"],
  "note.delete": ["Delete", "删除"],
  "note.sure": ["Delete “{title}”? This cannot be undone.", "要删除“{title}”吗？删除后无法恢复。"],
  "note.hidden": ["The note is hidden. It no longer appears among related notes.", "笔记已隐藏，不再作为相关笔记出现。"],
  "note.unhidden": ["The note appears in results again.", "笔记会再次出现在结果中。"],
  "note.deleted": ["Deleted.", "已删除。"],

  "related.heading": ["Related notes", "相关笔记"],
  "related.idle": ["Choose or write a note to see its related notes.", "选择或撰写一篇笔记，即可查看与之相关的笔记。"],
  "related.count": [{ one: "{n} related note", other: "{n} related notes" }, "{n} 篇相关笔记"],
  "related.parts": ["meaning {cosine} · words {lexical}", "含义 {cosine} · 词语 {lexical}"],
  "related.none": ["No related notes were found.", "没有找到相关笔记。"],
};

const PANEL = `
  <h1 class="unseen" data-t="tab.notes"></h1>
  <div class="columns" id="notes-columns">
    <div class="side">
      <div class="row">
        <label for="search" class="heading" data-t="search.label"></label>
        <a class="button" id="write-link" href="#/write" data-t="write.link"></a>
      </div>
      <input id="search" data-testid="search" type="search" autocomplete="off" spellcheck="false" enterkeyhint="search" data-t-placeholder="search.hint">
      <div class="found" id="search-found">
        <div class="status" id="search-results-status" role="status"></div>
        <ul class="list" id="search-results" data-testid="search-results" data-t-aria-label="search.results"></ul>
        <button type="button" class="quiet more" id="search-more" data-t="more"></button>
      </div>
    </div>

    <div class="middle">
      <article class="card" id="note" hidden>
        <div class="status" id="note-status" role="status"></div>
        <div id="note-body"></div>
      </article>
      <form class="card" id="write" autocomplete="off">
        <h2 id="write-heading" data-t="write.heading"></h2>
        <p class="muted" data-t="write.intro"></p>
        <label for="write-title" data-t="write.title"></label>
        <input id="write-title" data-testid="write-title" type="text" data-t-placeholder="write.title.hint">
        <label for="write-content" data-t="write.content"></label>
        <textarea id="write-content" data-testid="write-content" rows="7" data-t-placeholder="write.content.hint"></textarea>
        ${TAGS}
        <details>
          <summary data-t="write.own"></summary>
          <label for="write-id" data-t="write.id"></label>
          <input id="write-id" data-testid="write-id" type="text" spellcheck="false" autocapitalize="off" aria-describedby="write-id-hint">
          <p class="muted" id="write-id-hint" data-t="write.id.hint"></p>
        </details>
        <div class="status" id="write-status" role="alert"></div>
        <div class="actions">
          <button type="submit" class="main" id="publish" data-testid="publish" data-t="write.publish"></button>
          <button type="button" class="quiet" id="write-clear" data-t="write.clear"></button>
        </div>
      </form>
    </div>

    <section class="card last" aria-labelledby="related-heading">
      <h2 id="related-heading" data-t="related.heading"></h2>
      <div class="status" id="related-status" role="status"></div>
      <ol class="list ranked" id="related" data-testid="related" aria-labelledby="related-heading"></ol>
    </section>
  </div>
`;

addView({
  name: "notes", words: WORDS, panel: PANEL, start, title: () => shownTitle,
  show: ({ name, id, focus }) => openNote(id, focus && (id !== null || name === "write")),
});

const RELATED = 10; // notes that are shown

/** The id of the note that was opened last, and the ids of its related notes; the map shows them. */
export const selection = { id: null, related: [] };

const found = searchable("search", "search", "notes", (note) => noteItem(note));
const opened = place("note", $("note-body"));
const related = place("related");
const tags = place("tags", $("tags"), () => drawTags(null));

let shown = null; // the id of the note in view; null while writing
let shownTitle = "";

// ---------------------------------------------------------------- related notes

/** The two parts of a score in words; none if the vectors alone were compared. */
function partsOf({ cosine, lexical }) {
  if (lexical === null) return null;
  const digits = { minimumFractionDigits: 2, maximumFractionDigits: 2 };
  return t("related.parts", { cosine: number(cosine, digits), lexical: number(lexical, digits) });
}

function drawRelated({ related: notes }, box) {
  const widths = shares(notes.map((note) => note.score));
  box.append(...notes.map((note, i) => noteItem(note, { share: widths[i], reason: partsOf(note) })));
  return notes.length ? t("related.count", { n: notes.length }) : t("related.none");
}

async function relatedTo(id) {
  const path = `related?note_id=${encodeURIComponent(id)}&k=${RELATED}`;
  const answer = await related.fill((signal) => get(path, signal), drawRelated);
  if (answer) selection.related = answer.related.map((note) => note.note_id);
}

// ---------------------------------------------------------------- one note

/** Opens a note; the id null opens the form for writing. `focus` moves the keyboard there. */
async function openNote(id, focus) {
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
  // The keyboard stays where it is if the user moved it while the note was loading.
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
  // The Back button must not lead to the deleted note.
  location.replace("#/notes");
  $("search").focus();
}

// ---------------------------------------------------------------- writing

let generated = null; // the tags that the model suggested, with the text that they are for

const draft = () => ({ title: $("write-title").value.trim(), content: $("write-content").value.trim() });
const textOf = ({ title, content }) => `${title}\n${content}`;
const isEmpty = ({ title, content }) => !title && !content;

/** Asks for the related notes and the tags of the current draft. */
function live() {
  const note = draft();
  $("write-status").replaceChildren();
  if (isEmpty(note)) {
    generated = null;
    forgetChoices();
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

// Random numbers instead of randomUUID, which does not exist on pages that are not served over HTTPS.
const randomId = () =>
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

/** Returns the accepted tags of exactly this text, or none if the model fails: the note is published all the same. */
async function tagsOf(note) {
  if (!$("tags-use").checked) return {};
  if (generated?.text === textOf(note)) return accepted(generated);
  try {
    return accepted(await post("tags", note));
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
    const chosenId = $("write-id").value.trim();
    if (chosenId && await exists(chosenId)
      && !await confirmed(t("write.exists", { id: chosenId }), t("write.replace"))) return;
    const { topics = [], category } = await tagsOf(note);
    const id = chosenId || randomId();
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

function start() {
  onText($("write-title"), write);
  onText($("write-content"), write);
  document.addEventListener("again", found.search);
  $("write-title").addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.isComposing) return;
    event.preventDefault(); // Enter in the title leads on to the content instead of publishing
    $("write-content").focus();
  });
  $("write-link").addEventListener("click", () => {
    if (location.hash === "#/write") $("write-title").focus();
  });
  $("write").addEventListener("submit", publish);
  $("write-clear").addEventListener("click", () => {
    clearDraft();
    $("write-title").focus();
  });
  found.search();
}
