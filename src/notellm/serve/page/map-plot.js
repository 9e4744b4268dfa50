// The picture of the map: its points, which part of the plane is in view, and how it is drawn.

import { colourOf, isSquare } from "./colours.js";
import { titleOf } from "./lists.js";
import { selection } from "./notes.js";

const MARGIN = 28; // px around the notes when everything is shown
const EDGE = 60; // px of the notes that stay in view, and distance from the border of a note that is revealed
const LABELLED = 40; // with at most this many notes in view, their titles are written beside them

export class Plot {
  points = []; // {id, title, category, group, x, y}
  off = new Set(); // groups that are not drawn
  marked = null; // the point at which the keyboard or a tap is
  hovered = null; // the point under the mouse
  whole = true; // everything is shown, and stays shown when the size changes
  visible = false; // the view of the map is open

  #byId = new Map();
  #box = null; // of all points: {x, y, width, height}
  #view = { scale: 1, x: 0, y: 0 }; // screen = scale * point + (x, y), in CSS px
  #drawing = false;

  /** `drawn` is called after each drawing. */
  constructor(canvas, tip, drawn) {
    this.canvas = canvas;
    this.ink = canvas.getContext("2d");
    this.tip = tip;
    this.drawn = drawn;
  }

  setPoints(points) {
    this.points = points.filter(({ x, y }) => Number.isFinite(x) && Number.isFinite(y));
    this.#byId = new Map(this.points.map((point) => [point.id, point]));
    this.marked = this.#byId.get(this.marked?.id) ?? null;
    this.hovered = null;
    const xs = this.points.map((point) => point.x);
    const ys = this.points.map((point) => point.y);
    this.#box = this.points.length ? { x: Math.min(...xs), y: Math.min(...ys) } : null;
    if (this.#box) {
      Object.assign(this.#box, { width: Math.max(...xs) - this.#box.x, height: Math.max(...ys) - this.#box.y });
    }
    if (this.whole) this.fit();
    this.changed();
  }

  // -------------------------------------------------------------- points

  isOn(point) {
    return !this.off.has(point.group);
  }

  /** Returns the position of a point on the canvas, [x, y] in CSS px. */
  at(point) {
    const { scale, x, y } = this.#view;
    return [scale * point.x + x, scale * point.y + y];
  }

  get middle() {
    return [this.canvas.clientWidth / 2, this.canvas.clientHeight / 2];
  }

  inView(point) {
    const [x, y] = this.at(point);
    return x >= 0 && x <= this.canvas.clientWidth && y >= 0 && y <= this.canvas.clientHeight;
  }

  /** Returns the point of the note that was opened last, if the map has it. */
  chosen() {
    return this.#byId.get(selection.id);
  }

  /** Returns the point nearest to a position, if it is not farther away than `within` px. */
  nearest(x, y, within = Infinity) {
    let best = null;
    let least = within;
    for (const point of this.points) {
      const [px, py] = this.at(point);
      const distance = Math.hypot(px - x, py - y);
      if (distance < least && this.isOn(point)) [best, least] = [point, distance];
    }
    return best;
  }

  /** Returns the nearest point in a direction; a point straight ahead counts as nearer than one to the side. */
  neighbour(from, dx, dy) {
    const [fromX, fromY] = this.at(from);
    let best = null;
    let least = Infinity;
    for (const point of this.points) {
      const [px, py] = this.at(point);
      const [x, y] = [px - fromX, py - fromY];
      const ahead = x * dx + y * dy;
      const cost = ahead + 2 * Math.abs(x * dy) + 2 * Math.abs(y * dx);
      if (ahead > 0 && cost < least && this.isOn(point)) [best, least] = [point, cost];
    }
    return best;
  }

  /** Returns the points in view, those nearest to the center first. */
  nearestToCenter() {
    const [x, y] = this.middle;
    const away = (point) => Math.hypot(this.at(point)[0] - x, this.at(point)[1] - y);
    return this.points.filter((point) => this.isOn(point) && this.inView(point)).sort((a, b) => away(a) - away(b));
  }

  // -------------------------------------------------------------- moving

  #fitScale() {
    if (!this.#box) return 1;
    const across = (this.canvas.clientWidth - 2 * MARGIN) / (this.#box.width || 1);
    const down = (this.canvas.clientHeight - 2 * MARGIN) / (this.#box.height || 1);
    return Math.max(1e-6, Math.min(across, down));
  }

  fit() {
    this.whole = true;
    if (!this.#box) return;
    const scale = this.#fitScale();
    const [x, y] = this.middle;
    this.#view = {
      scale,
      x: x - scale * (this.#box.x + this.#box.width / 2),
      y: y - scale * (this.#box.y + this.#box.height / 2),
    };
    this.changed();
  }

  move(dx, dy) {
    if (!this.#box) return;
    this.whole = false;
    const { scale } = this.#view;
    // Some of the notes always stay in view, so that nobody gets lost beside the map.
    const keep = (value, size, low, span) =>
      Math.max(EDGE - scale * (low + span), Math.min(value, size - EDGE - scale * low));
    this.#view.x = keep(this.#view.x + dx, this.canvas.clientWidth, this.#box.x, this.#box.width);
    this.#view.y = keep(this.#view.y + dy, this.canvas.clientHeight, this.#box.y, this.#box.height);
    this.changed();
  }

  zoom(factor, x = this.middle[0], y = this.middle[1]) {
    const fitted = this.#fitScale();
    const scale = Math.max(fitted * 0.6, Math.min(this.#view.scale * factor, fitted * 60));
    const real = scale / this.#view.scale;
    this.#view = { scale, x: x - real * (x - this.#view.x), y: y - real * (y - this.#view.y) };
    this.move(0, 0);
  }

  center(point) {
    const [x, y] = this.at(point);
    this.move(this.middle[0] - x, this.middle[1] - y);
  }

  /** Moves the map as little as needed to show a point. */
  reveal(point) {
    const shift = (value, size) => (value < EDGE ? EDGE - value : value > size - EDGE ? size - EDGE - value : 0);
    const [x, y] = this.at(point);
    const [dx, dy] = [shift(x, this.canvas.clientWidth), shift(y, this.canvas.clientHeight)];
    if (dx || dy) this.move(dx, dy);
  }

  // -------------------------------------------------------------- drawing

  /** Draws with the next frame, however often this is called before it. */
  changed() {
    if (this.#drawing) return;
    this.#drawing = true;
    requestAnimationFrame(() => {
      this.#drawing = false;
      if (this.visible) this.#draw();
    });
  }

  #draw() {
    const { canvas, ink } = this;
    const ratio = window.devicePixelRatio || 1;
    const [width, height] = [canvas.clientWidth, canvas.clientHeight];
    if (canvas.width !== Math.round(width * ratio)) canvas.width = Math.round(width * ratio);
    if (canvas.height !== Math.round(height * ratio)) canvas.height = Math.round(height * ratio);
    ink.setTransform(ratio, 0, 0, ratio, 0, 0);
    ink.clearRect(0, 0, width, height);
    const style = getComputedStyle(document.documentElement);
    const [text, surface, accent] = ["--text", "--surface", "--accent"].map((name) => style.getPropertyValue(name));
    ink.font = `12px ${getComputedStyle(document.body).fontFamily}`;

    const shown = this.points.filter((point) => this.isOn(point) && this.inView(point));
    const chosen = this.chosen();
    const size = this.#radius();
    const groups = new Map();
    for (const point of shown) {
      if (!groups.has(point.group)) groups.set(point.group, []);
      groups.get(point.group).push(point);
    }
    // If a note is chosen, the others are pale; its related notes are drawn again below, in full colour.
    ink.globalAlpha = chosen ? 0.3 : 0.85;
    for (const [group, members] of groups) this.#mark(members, size, group);
    ink.globalAlpha = 1;
    if (chosen) this.#drawChosen(chosen, size, surface, accent);
    for (const point of [this.marked, this.hovered]) if (point && this.isOn(point)) this.#ring(point, size + 4, text, 2);

    const labels = [chosen, ...(shown.length <= LABELLED ? shown : [])].filter(Boolean);
    this.#writeLabels(labels, size, text, surface, width);
    this.#placeTip(width);
    this.drawn();
  }

  #drawChosen(chosen, size, surface, accent) {
    const { ink } = this;
    const related = new Set(selection.related);
    const near = this.points.filter((point) => related.has(point.id));
    ink.strokeStyle = accent;
    ink.lineWidth = 1;
    ink.globalAlpha = 0.5;
    ink.beginPath();
    for (const point of near) {
      ink.moveTo(...this.at(chosen));
      ink.lineTo(...this.at(point));
    }
    ink.stroke();
    ink.globalAlpha = 1;
    for (const point of near) {
      this.#mark([point], size + 1.5, point.group);
      this.#ring(point, size + 1.5, surface, 1.5);
    }
    this.#mark([chosen], size + 3, chosen.group);
    this.#ring(chosen, size + 4, accent, 3);
  }

  /** Returns the radius of a point in px. It grows while zooming in, so that single notes are easier to hit. */
  #radius() {
    const first = this.points.length > 1000 ? 2.8 : 4;
    return Math.min(8, first * Math.max(0.8, Math.sqrt(this.#view.scale / this.#fitScale())));
  }

  #mark(members, size, group) {
    const { ink } = this;
    ink.fillStyle = colourOf(group);
    ink.beginPath();
    for (const point of members) {
      const [x, y] = this.at(point);
      if (isSquare(group)) ink.rect(x - size * 0.9, y - size * 0.9, size * 1.8, size * 1.8);
      else {
        ink.moveTo(x + size, y);
        ink.arc(x, y, size, 0, 2 * Math.PI);
      }
    }
    ink.fill();
  }

  #ring(point, size, colour, line) {
    const { ink } = this;
    ink.strokeStyle = colour;
    ink.lineWidth = line;
    ink.beginPath();
    ink.arc(...this.at(point), size, 0, 2 * Math.PI);
    ink.stroke();
  }

  #writeLabels(labelled, size, text, surface, width) {
    const { ink } = this;
    const taken = [];
    ink.lineWidth = 4;
    ink.lineJoin = "round";
    for (const point of new Set(labelled)) {
      if (point === (this.hovered ?? this.marked)) continue; // the tip shows its title
      const words = titleOf(point).length > 34 ? `${titleOf(point).slice(0, 33)}…` : titleOf(point);
      const long = ink.measureText(words).width;
      const [px, py] = this.at(point);
      const x = Math.max(4, Math.min(px - long / 2, width - long - 4));
      const y = py + size + 17;
      if (taken.some((other) => Math.abs(other.y - y) < 16 && x < other.x + other.long + 8 && other.x < x + long + 8)) continue;
      taken.push({ x, y, long });
      ink.strokeStyle = surface;
      ink.strokeText(words, x, y);
      ink.fillStyle = text;
      ink.fillText(words, x, y);
    }
  }

  #placeTip(width) {
    const { tip } = this;
    const point = this.hovered ?? this.marked;
    tip.hidden = !point || !this.isOn(point) || !this.inView(point);
    if (tip.hidden) return;
    tip.textContent = titleOf(point);
    const [px, py] = this.at(point);
    const x = Math.max(8, Math.min(px - tip.offsetWidth / 2, width - tip.offsetWidth - 8));
    const above = py - tip.offsetHeight - 14;
    tip.style.transform = `translate(${x}px, ${above > 4 ? above : py + 16}px)`;
  }
}
