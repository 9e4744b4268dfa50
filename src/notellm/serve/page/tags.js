// The topics and the category that the model suggests for a draft, as the writer changes them before publishing.

import { $, el } from "./dom.js";
import { addWords, number, t } from "./i18n.js";
import { dot } from "./lists.js";

addWords({
  "tags.heading": ["Suggested topics and category", "推荐的话题和类别"],
  "tags.use": ["Publish with these topics and this category", "发布时使用这些话题和类别"],
  "tags.none.category": ["none of them", "均不合适"],
  "tags.none.topics": ["No topic is likely enough.", "没有足够合适的话题。"],
  "tags.nothing.category": ["The model knows no categories.", "模型不认识任何类别。"],
  "tags.unlearnt.category": [
    "The model has not learnt categories, because its training notes had none or its training left them out.",
    "模型没有学过类别：训练笔记中没有类别，或训练时未使用。",
  ],
  "tags.unlearnt.topics": [
    "The model has not learnt topics, because its training notes had none or its training left them out.",
    "模型没有学过话题：训练笔记中没有话题，或训练时未使用。",
  ],
  "tags.more": ["Add a topic", "添加话题"],
  "tags.add": ["Add the topic {name}", "添加话题“{name}”"],
  "tags.remove": ["Remove the topic {name}", "移除话题“{name}”"],
  "tags.added": ["The topic {name} was added.", "已添加话题“{name}”。"],
  "tags.removed": ["The topic {name} was removed.", "已移除话题“{name}”。"],
  "tags.likely": ["Probability {share}", "可能性 {share}"],
  "tags.neighbours": ["Similar notes with this topic:", "带有此话题的相似笔记："],
  "tags.alone": ["No similar note has this topic.", "没有相似的笔记带有此话题。"],
});

/** The elements that this module fills; the view of notes puts them into its form. */
export const PANEL = `
  <div class="tags" id="tags" role="group" data-t-aria-label="tags.heading">
    <div class="status" id="tags-status" role="status"></div>
    <dl class="pairs">
      <dt data-t="category"></dt><dd id="tags-category" data-testid="tags-category">–</dd>
      <dt data-t="topics"></dt><dd id="tags-topics" data-testid="tags-topics">–</dd>
      <dt id="tags-more-label" data-t="tags.more" hidden></dt><dd id="tags-more" data-testid="tags-more" hidden></dd>
    </dl>
    <p class="unseen" id="tags-said" role="status"></p>
    <label class="check"><input type="checkbox" id="tags-use" checked><span data-t="tags.use"></span></label>
  </div>
`;

// What the writer has decided about the draft; it stays while the text changes.
const removed = new Set(); // suggested topics that shall not be published
const added = new Map(); // further topics that shall be published, by name
let category; // the category that was chosen, "" for none of them; undefined while the suggestion stands

let shown = null; // the answer in view

/** Forgets what was decided, for a new draft. */
export function forgetChoices() {
  removed.clear();
  added.clear();
  category = undefined;
  $("tags-said").textContent = "";
}

/** Returns the topics to publish, with what is known of them. */
function chosenTopics(answer) {
  const known = new Map([...answer.topic_details, ...answer.more_topics].map((topic) => [topic.name, topic]));
  const suggested = answer.topic_details.filter(({ name }) => !removed.has(name));
  const names = new Set(suggested.map(({ name }) => name));
  const others = [...added.values()].filter(({ name }) => !names.has(name));
  return [...suggested, ...others.map((topic) => known.get(topic.name) ?? { ...topic, probability: null })];
}

const chosenCategory = (answer) => category ?? answer.category ?? "";

/** Returns the topics and the category of an answer, as the writer has changed them. */
export function accepted(answer) {
  return { topics: chosenTopics(answer).map(({ name }) => name), category: chosenCategory(answer) };
}

function share(probability) {
  if (probability === null || probability === undefined) return null;
  const text = number(Math.max(probability, 0.01), { style: "percent", maximumFractionDigits: 0 });
  return probability < 0.005 ? `< ${text}` : text;
}

/** Draws the tags of an answer; null empties the box. */
export function drawTags(answer) {
  shown = answer;
  $("tags-category").replaceChildren(answer ? categoryPart(answer) : "–");
  const topics = answer ? chosenTopics(answer) : [];
  $("tags-topics").replaceChildren(answer ? topicsPart(answer, topics) : "–");
  const names = new Set(topics.map(({ name }) => name));
  const details = answer && !answer.not_learnt.includes("topics") ? [...answer.topic_details, ...answer.more_topics] : [];
  const more = details.filter(({ name }) => !names.has(name));
  for (const id of ["tags-more", "tags-more-label"]) $(id).hidden = !more.length;
  $("tags-more").replaceChildren(el("ul", { class: "topics" }, ...more.map((topic, i) => addChip(topic, `more-${i}`))));
  return "";
}

const muted = (key) => el("span", { class: "muted", text: t(key) });

function categoryPart(answer) {
  if (answer.not_learnt.includes("category")) return muted("tags.unlearnt.category");
  const ranked = answer.categories.length || !answer.category
    ? answer.categories : [{ name: answer.category, probability: answer.category_probability }];
  const names = new Set(ranked.map(({ name }) => name));
  // A category that was chosen for an earlier text may be unlikely for this one.
  const all = category && !names.has(category) ? [...ranked, { name: category, probability: null }] : ranked;
  if (!all.length) return muted("tags.nothing.category");
  const chosen = chosenCategory(answer);
  const option = (value, text) => el("option", { value, text, selected: value === chosen });
  const select = el("select", {
    id: "category-choice", "data-testid": "category-choice", "aria-label": t("category"),
    onchange: () => {
      category = select.value;
      select.previousElementSibling?.remove();
      if (category) select.before(dot(category));
    },
  }, ...all.map(({ name, probability }) => option(name, [name, share(probability)].filter(Boolean).join(" · "))),
  option("", t("tags.none.category")));
  return el("span", { class: "choice" }, chosen ? dot(chosen) : null, select);
}

function topicsPart(answer, topics) {
  if (answer.not_learnt.includes("topics")) return muted("tags.unlearnt.topics");
  if (!topics.length) return muted("tags.none.topics");
  return el("ul", { class: "topics" }, ...topics.map((topic, i) => removeChip(topic, `topic-${i}`)));
}

// ---------------------------------------------------------------- chips

/** The name of a topic with its probability. */
const label = ({ name, probability }) => [
  el("span", { class: "name", dir: "auto", text: name }),
  share(probability) ? el("small", { class: "share", "aria-hidden": "true", text: share(probability) }) : null,
];

/** The notes that speak for a topic, which are shown while its chip has the pointer or the keyboard. */
function tip({ probability, neighbours }, id) {
  const likely = share(probability);
  const titles = (neighbours ?? []).map(({ title }) => el("span", { class: "of", dir: "auto", text: title || t("untitled") }));
  return el("span", { class: "tip", id, role: "tooltip" },
    likely ? el("span", { class: "of", text: t("tags.likely", { share: likely }) }) : null,
    el("span", { class: "of", text: t(titles.length ? "tags.neighbours" : "tags.alone") }), ...titles);
}

/** A chip whose tip goes away with Escape, and comes back with the next visit. */
function chip(kind, children) {
  const item = el("li", { class: kind }, ...children);
  item.addEventListener("keydown", (event) => { if (event.key === "Escape") item.classList.add("calm"); });
  for (const left of ["mouseleave", "focusout"]) item.addEventListener(left, () => item.classList.remove("calm"));
  return item;
}

function removeChip(topic, id) {
  return chip("chip", [
    ...label(topic),
    el("button", {
      type: "button", class: "quiet", "aria-label": t("tags.remove", topic), "aria-describedby": id, text: "×",
      onclick: (event) => decide(event, "removed", topic),
    }),
    tip(topic, id),
  ]);
}

function addChip(topic, id) {
  return chip("chip add", [
    el("button", {
      type: "button", class: "quiet", "aria-label": t("tags.add", topic), "aria-describedby": id,
      onclick: (event) => decide(event, "added", topic),
    }, el("span", { text: "+", "aria-hidden": "true" }), ...label(topic)),
    tip(topic, id),
  ]);
}

/** Removes or adds a topic; the keyboard goes on to the chip that takes the place of the pressed one. */
function decide(event, what, topic) {
  const box = event.currentTarget.closest("dd");
  const at = [...box.querySelectorAll("button")].indexOf(event.currentTarget);
  const suggested = shown.topic_details.some(({ name }) => name === topic.name);
  if (what === "removed") {
    added.delete(topic.name);
    if (suggested) removed.add(topic.name);
  } else {
    removed.delete(topic.name);
    if (!suggested) added.set(topic.name, topic);
  }
  drawTags(shown);
  const left = [...box.querySelectorAll("button")];
  const next = left[Math.min(at, left.length - 1)] ?? document.querySelector("#tags .chip button") ?? $("tags-use");
  next.focus({ preventScroll: true });
  $("tags-said").textContent = t(`tags.${what}`, topic);
}
