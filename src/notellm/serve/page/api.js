// Requests to the server, with the API key if it needs one.

import { $, answer, recall, remember } from "./dom.js";
import { t } from "./i18n.js";

export class ApiError extends Error {
  /** `status` is 0 if no answer came; `retryAfter` is in seconds, or null. */
  constructor(status, message, retryAfter = null) {
    super(message);
    this.status = status;
    this.retryAfter = retryAfter;
  }
}

// Kept for this browser tab only, so that a shared computer does not keep it.
let key = recall("key", "sessionStorage");
let asking = null; // the dialog that asks for a key; all waiting requests share its answer
let declined = false; // the dialog was closed; it opens again only if the user asks for it
let missed = false; // requests have failed because there was no key

export const hasKey = () => Boolean(key);

export function forgetKey() {
  key = null;
  remember("key", null, "sessionStorage");
}

export function askAgain() {
  declined = false;
}

function askForKey() {
  asking ??= (async () => {
    $("key-text").textContent = t(key ? "key.wrong" : "key.first");
    $("key-input").value = "";
    const yes = await answer($("key"));
    const entered = $("key-input").value.trim();
    $("key-input").value = "";
    asking = null;
    if (!yes || !entered) {
      declined = true;
      missed = true;
      return;
    }
    key = entered;
    remember("key", key, "sessionStorage");
    if (missed) document.dispatchEvent(new Event("key"));
    missed = false;
  })();
  return asking;
}

/** Sends a request and returns the JSON of the answer. Throws ApiError, or AbortError after `signal`. */
export async function call(method, path, body, signal) {
  const sent = key;
  const headers = {};
  if (sent) headers.Authorization = `Bearer ${sent}`;
  if (body !== undefined) headers["Content-Type"] = "application/json";
  let response;
  try {
    response = await fetch(new URL(`v1/${path}`, document.baseURI), {
      method, headers, signal, body: body === undefined ? undefined : JSON.stringify(body),
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(0, "");
  }
  if (response.status === 401 && (key !== sent || !declined)) {
    if (key === sent) await askForKey();
    if (key !== sent) return call(method, path, body, signal);
  }
  let answered = null;
  try {
    answered = await response.json();
  } catch (error) {
    if (error.name === "AbortError") throw error;
    if (response.ok) throw new ApiError(0, "");
  }
  if (response.ok) return answered;
  const wait = Number.parseInt(response.headers.get("Retry-After"), 10);
  const message = answered?.error?.message ?? response.statusText;
  throw new ApiError(response.status, message, Number.isNaN(wait) ? null : wait);
}

export const get = (path, signal) => call("GET", path, undefined, signal);
export const post = (path, body, signal) => call("POST", path, body, signal);

export const notePath = (id) => `notes/${encodeURIComponent(id)}`;

/** Describes an error in the language of the page, followed by the message of the server. */
export function explain(error) {
  if (!(error instanceof ApiError)) return t("error.other");
  const { status, message, retryAfter } = error;
  if (status === 0) return t("error.network");
  if (status === 429 || status === 503) {
    return `${t("error.busy")} ${retryAfter ? t("error.wait", { n: retryAfter }) : message}`;
  }
  const words = t([401, 403, 404].includes(status) ? `error.${status}` : "error.other");
  return message && status !== 401 ? `${words} ${message[0].toUpperCase()}${message.slice(1)}` : words;
}
