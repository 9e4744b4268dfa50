// Helpers for the document. Text is inserted as text nodes only: a note is data, never markup.

export const $ = (id) => document.getElementById(id);

/** Creates an element. Properties other than class, text, style and on... are set as attributes. */
export function el(tag, properties = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "class") node.className = value;
    else if (name === "text") node.textContent = value;
    else if (name === "style") Object.assign(node.style, value);
    else if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

/** Returns a function that runs `action` once, `wait` ms after its last call; `.cancel()` prevents that. */
export function debounce(action, wait) {
  let timer;
  const later = (...values) => {
    clearTimeout(timer);
    timer = setTimeout(action, wait, ...values);
  };
  later.cancel = () => clearTimeout(timer);
  return later;
}

// Storage may be forbidden or full. The page works without it, but remembers nothing.
export function recall(name, storage = "localStorage") {
  try {
    return window[storage].getItem(name);
  } catch {
    return null;
  }
}

export function remember(name, value, storage = "localStorage") {
  try {
    if (value === null) window[storage].removeItem(name);
    else window[storage].setItem(name, value);
  } catch {
    // The value is not remembered; see above.
  }
}

let fading;

/** Shows for a few seconds what has been done; screen readers read it out. */
export function toast(words) {
  $("toast").textContent = words;
  clearTimeout(fading);
  fading = setTimeout(() => { $("toast").textContent = ""; }, 5000);
}

/** Opens a dialog; resolves to true for "yes", and to false if it is closed, also by Escape. */
export function answer(dialog) {
  return new Promise((resolve) => {
    dialog.returnValue = "";
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"), { once: true });
    dialog.showModal();
  });
}

export function confirmed(question, yes) {
  $("confirm-text").textContent = question;
  $("confirm-yes").textContent = yes;
  return answer($("confirm"));
}

/** Runs `action` when the user changes the text of an input, but not while an input method is composing. */
export function onText(input, action) {
  input.addEventListener("input", (event) => { if (!event.isComposing) action(); });
  input.addEventListener("compositionend", action);
}

/** Lets the up and down keys move through the links of `list`, and from the first one back to `input`. */
export function arrowKeys(input, list) {
  const links = () => [...list.querySelectorAll("a")].filter((link) => link.offsetParent);
  input.addEventListener("keydown", (event) => {
    if (event.isComposing) return;
    if (event.key === "ArrowDown" && links().length) {
      event.preventDefault();
      links()[0].focus();
    } else if (event.key === "Escape" && input.value) {
      event.preventDefault();
      input.value = "";
      input.dispatchEvent(new Event("input"));
    }
  });
  list.addEventListener("keydown", (event) => {
    const at = links().indexOf(document.activeElement);
    if (event.key === "Escape") input.focus();
    if (at < 0 || (event.key !== "ArrowDown" && event.key !== "ArrowUp")) return;
    event.preventDefault();
    (links()[at + (event.key === "ArrowDown" ? 1 : -1)] ?? (at ? links()[at] : input)).focus();
  });
}

export const noteLink = (id) => `#/notes/${encodeURIComponent(id)}`;
export const userLink = (id) => `#/users/${encodeURIComponent(id)}`;
