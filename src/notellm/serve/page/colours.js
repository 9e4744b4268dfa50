// A colour for each category: the same ones in every part of the page and on every visit.

// Hues in degrees, ordered so that the first few are far apart.
const HUES = [255, 50, 150, 350, 95, 300, 195, 25, 125, 325];
// Lightness and chroma of the first ten categories and of the next ten, by theme.
const LEVELS = { light: [[0.6, 0.15], [0.42, 0.1]], dark: [[0.76, 0.13], [0.56, 0.11]] };
const LIMIT = HUES.length * 2;

let known = [];
let groups = new Map();
let whole = true; // false: categories share the colour of what stands before their "/"

const theme = () => document.documentElement.dataset.theme;

/** Learns categories, true if any is new; those known already keep their place, so that colours do not move. */
export function learnCategories(categories) {
  const before = known.length;
  known = [...new Set([...known, ...categories.filter(Boolean).sort()])];
  whole = known.length <= LIMIT;
  const names = whole ? known : [...new Set(known.map((name) => name.split("/")[0]))];
  groups = new Map(names.slice(0, LIMIT).map((name, i) => [name, i]));
  return known.length > before;
}

/** The group that a category is coloured with: itself, its first part, "" for others, null for none. */
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

/** The second ten have a shape of their own too: colour alone is not for every eye. */
export const isSquare = (category) => (groups.get(groupOf(category)) ?? 0) >= HUES.length;
