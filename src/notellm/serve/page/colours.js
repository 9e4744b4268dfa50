// A colour for each category, the same in every part of the page and at every visit.

// Hues in degrees, ordered so that the first few are far apart.
const HUES = [255, 50, 150, 350, 95, 300, 195, 25, 125, 325];
// Lightness and chroma of the first ten categories and of the next ten, by theme.
const LEVELS = { light: [[0.6, 0.15], [0.42, 0.1]], dark: [[0.76, 0.13], [0.56, 0.11]] };
const LIMIT = HUES.length * 2;

let known = [];
let groups = new Map();
let whole = true; // false: categories with the same first part (before "/") share a colour

const theme = () => document.documentElement.dataset.theme;

/** Learns categories; returns whether any is new. Known ones keep their position and thus their colour. */
export function learnCategories(categories) {
  const before = known.length;
  known = [...new Set([...known, ...categories.filter(Boolean).sort()])];
  whole = known.length <= LIMIT;
  const names = whole ? known : [...new Set(known.map((name) => name.split("/")[0]))];
  groups = new Map(names.slice(0, LIMIT).map((name, i) => [name, i]));
  return known.length > before;
}

/** Returns the group that gives a category its colour: itself, its first part, "" for others, null for none. */
export function groupOf(category) {
  if (!category) return null;
  const name = whole ? category : category.split("/")[0];
  return groups.has(name) ? name : "";
}

export function colourOf(category) {
  const at = groups.get(groupOf(category));
  if (at === undefined) return theme() === "dark" ? "oklch(0.66 0 0)" : "oklch(0.58 0 0)";
  const [lightness, chroma] = LEVELS[theme()][Math.floor(at / HUES.length)];
  return `oklch(${lightness} ${chroma} ${HUES[at % HUES.length]})`;
}

/** Whether a category is drawn as a square, like the second ten: not everybody can rely on colours alone. */
export const isSquare = (category) => (groups.get(groupOf(category)) ?? 0) >= HUES.length;
