// The views of the page. Each view is one module that adds itself here; app.js imports these modules.

import { $, el } from "./dom.js";
import { addWords } from "./i18n.js";

/** All views, in the order of their tabs. */
export const views = [];

/**
 * Adds a view: its words, its tab and its panel. A view's module calls this before it looks up any element.
 *
 * name   of the view; its address is #/NAME or #/NAME/ID, its panel is #panel-NAME
 * words  its words, as in words.js; "tab.NAME" is the label of the tab
 * panel  the HTML of its panel: a constant of the module, never text from the server
 * start  is called once, after all views were added (optional)
 * show   is called with {name, id, focus} whenever an address opens the view: the name in the address, the id or
 *        null, and whether the keyboard shall move into the view
 * leave  is called when another view is opened (optional)
 * title  returns the title of the window; without it the label of the tab is shown (optional)
 */
export function addView(view) {
  addWords(view.words);
  const panel = el("section", {
    id: `panel-${view.name}`, role: "tabpanel", "aria-labelledby": `tab-${view.name}`, hidden: true,
  });
  panel.innerHTML = view.panel;
  $("main").append(panel);
  views.push(view);
}
