// The language of the page: its words, and how numbers and times are written.

import { recall, remember } from "./dom.js";
import { BASIS, WORDS } from "./words.js";

const LANGUAGES = ["en", "zh"]; // in the order of WORDS
const LOCALES = { en: "en", zh: "zh-CN" };

let language = recall("language") ?? (navigator.language.toLowerCase().startsWith("zh") ? "zh" : "en");
if (!LANGUAGES.includes(language)) language = "en";

const locale = () => LOCALES[language];

/** Adds words, in the form of WORDS; each view adds its own. */
export function addWords(words) {
  Object.assign(WORDS, words);
}

/** Returns the words of `key`. `{name}` stands for a value, and the value `n` chooses singular or plural. */
export function t(key, values = {}) {
  let words = WORDS[key]?.[LANGUAGES.indexOf(language)] ?? key;
  if (typeof words === "object") words = words[new Intl.PluralRules(locale()).select(values.n)] ?? words.other;
  return words.replace(/\{(\w+)\}/g, (_, name) => {
    const value = values[name];
    return typeof value === "number" ? number(value) : String(value);
  });
}

export const number = (value, options) => new Intl.NumberFormat(locale(), options).format(value);

export const date = (iso) =>
  new Intl.DateTimeFormat(locale(), { dateStyle: "medium", timeStyle: "short" }).format(new Date(iso));

/** Returns a day of the calendar, such as 2026-12-01, without its year. */
export const calendarDay = (day) =>
  new Intl.DateTimeFormat(locale(), { day: "numeric", month: "short", timeZone: "UTC" }).format(new Date(day));

export const clock = (time) => new Intl.DateTimeFormat(locale(), { timeStyle: "medium" }).format(time);

/** Returns a number of seconds in its two largest units, such as "3 hours 12 minutes". */
export function duration(seconds) {
  const units = [["day", 86400], ["hour", 3600], ["minute", 60], ["second", 1]];
  const first = Math.max(0, units.findIndex(([, size]) => seconds >= size));
  const from = seconds < 1 ? units.length - 1 : first;
  let rest = seconds;
  return units.slice(from, from + 2).map(([unit, size]) => {
    const count = Math.floor(rest / size);
    rest -= count * size;
    return number(count, { style: "unit", unit, unitDisplay: "long" });
  }).join(" ");
}

export const basis = (words) =>
  language === "zh" ? BASIS.reduce((text, [phrase, chinese]) => text.replace(phrase, chinese), words) : words;

/** Writes the words of every element that names them in data-t or data-t-NAME. */
export function translatePage() {
  document.documentElement.lang = locale();
  for (const node of document.querySelectorAll("*")) {
    for (const { name, value } of [...node.attributes]) {
      if (name === "data-t") node.textContent = t(value);
      else if (name.startsWith("data-t-")) node.setAttribute(name.slice("data-t-".length), t(value));
    }
  }
}

export function switchLanguage() {
  language = language === "en" ? "zh" : "en";
  remember("language", language);
  translatePage();
  document.dispatchEvent(new Event("redraw"));
}
