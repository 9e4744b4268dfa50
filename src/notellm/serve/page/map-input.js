// Keyboard, mouse and touch on the map.

const NEAR = { mouse: 12, other: 24 }; // px between a pointer and the note that it means

/** Lets the user move a plot; `mark(point)` marks a note, `open(point)` opens it. */
export function listen(plot, mark, open) {
  const { canvas } = plot;
  canvas.addEventListener("keydown", (event) => keys(event, plot, mark, open));
  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    const { x, y } = where(event, canvas);
    plot.zoom(Math.exp(-event.deltaY * (event.deltaMode ? 0.03 : 0.0015)), x, y);
  }, { passive: false });
  listenToPointers(plot, mark, open);
}

function keys(event, plot, mark, open) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const arrow = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
  const from = plot.marked && plot.isOn(plot.marked) ? plot.marked : null;
  if (arrow && event.shiftKey) plot.move(-60 * arrow[0], -60 * arrow[1]);
  else if (arrow) {
    const chosen = plot.chosen();
    const next = from ? plot.neighbour(from, ...arrow)
      : chosen && plot.isOn(chosen) ? chosen : plot.nearest(...plot.middle);
    if (next) {
      plot.reveal(next);
      mark(next);
    }
  } else if ((event.key === "Enter" || event.key === " ") && from) open(from);
  else if ("+=-_".includes(event.key)) {
    const middle = from && plot.inView(from) ? plot.at(from) : [];
    plot.zoom("+=".includes(event.key) ? 1.4 : 1 / 1.4, ...middle);
  } else if (event.key === "0") plot.fit();
  else if (event.key === "Escape") mark(null);
  else return;
  event.preventDefault();
}

const where = (event, canvas) => {
  const frame = canvas.getBoundingClientRect();
  return { x: event.clientX - frame.left, y: event.clientY - frame.top };
};

function listenToPointers(plot, mark, open) {
  const { canvas } = plot;
  const fingers = new Map(); // pointers that are down, and where
  let travelled = 0; // px since the first finger came down

  const meant = (event) => {
    const { x, y } = where(event, canvas);
    return plot.nearest(x, y, event.pointerType === "mouse" ? NEAR.mouse : NEAR.other);
  };

  function press(event) {
    if (event.button !== 0) return;
    canvas.setPointerCapture(event.pointerId);
    if (!fingers.size) travelled = 0;
    fingers.set(event.pointerId, where(event, canvas));
  }

  function drag(event) {
    const before = fingers.get(event.pointerId);
    const now = where(event, canvas);
    if (!before) {
      plot.hovered = event.pointerType === "mouse" ? meant(event) : null;
      canvas.style.cursor = plot.hovered ? "pointer" : "";
      plot.changed();
      return;
    }
    travelled += Math.hypot(now.x - before.x, now.y - before.y);
    const [other] = [...fingers].filter(([id]) => id !== event.pointerId).map(([, finger]) => finger);
    fingers.set(event.pointerId, now);
    if (other) {
      const apart = (finger) => Math.hypot(finger.x - other.x, finger.y - other.y) || 1;
      plot.zoom(apart(now) / apart(before), (now.x + other.x) / 2, (now.y + other.y) / 2);
      plot.move((now.x - before.x) / 2, (now.y - before.y) / 2);
      travelled = Infinity; // two fingers never tap
    } else if (travelled > 4) plot.move(now.x - before.x, now.y - before.y);
  }

  function release(event) {
    const pressed = fingers.delete(event.pointerId);
    if (!pressed || event.type !== "pointerup" || travelled > 6) return;
    const point = meant(event);
    // A finger hides what it touches, so the first tap shows the title and offers to open the note.
    if (point && (event.pointerType === "mouse" || point === plot.marked)) open(point);
    else mark(point);
  }

  canvas.addEventListener("pointerdown", press);
  canvas.addEventListener("pointermove", drag);
  canvas.addEventListener("pointerup", release);
  canvas.addEventListener("pointercancel", release);
  canvas.addEventListener("pointerleave", () => {
    plot.hovered = null;
    plot.changed();
  });
}
