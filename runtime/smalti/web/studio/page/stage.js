// The stage: one picture with its mask and what lies around it, or several side by side.
import { $, el } from "./dom.js";

const ROOM = 28, ARROW_ROOM = 56, MOST_ZOOM = 4;
const NONE = { left: 0, top: 0, right: 0, bottom: 0 };

/** What is shown. Sizes are pixels of the picture, but for those of the page. */
export class Stage {
  constructor(onlayout) {
    this.onlayout = onlayout;
    this.stage = $("stage");
    this.sheet = $("sheet");
    this.picture = $("picture");
    this.mask = $("mask");
    this.takes = $("takes");
    this.size = [256, 256]; // of the mosaic that is shown before there is a picture
    this.margins = NONE;
    this.zoom = 1;
    this.arrowRoom = false;
    new ResizeObserver(() => this.layout()).observe(this.stage);
  }

  /** Show a picture alone. */
  show(picture, told) {
    this.takes.hidden = true;
    this.sheet.hidden = false;
    this.#paint(this.picture, picture.bitmap);
    this.#tell(told);
    this.size = [picture.width, picture.height];
    this.layout();
  }

  /** Show the rough picture of a step, which becomes one of this size. */
  preview(bitmap, size) {
    this.takes.hidden = true;
    this.sheet.hidden = false;
    this.margins = NONE;
    this.#paint(this.picture, bitmap);
    this.size = size;
    this.layout();
  }

  /** Make room for several pictures side by side; each is a button that calls `open` with its number. */
  spread(count, [width, height], open) {
    const room = this.takes.getBoundingClientRect().width ? this.takes : this.stage;
    const across = Math.max(1, room.clientWidth - 32), down = Math.max(1, room.clientHeight - 32);
    let best = { side: 0 };
    for (let columns = 1; columns <= count; columns++) {
      const rows = Math.ceil(count / columns);
      const side = Math.min((across - 8 * (columns - 1)) / columns / width, (down - 8 * (rows - 1)) / rows / height);
      if (side > best.side) best = { side, columns };
    }
    this.tiles = { count, size: [width, height], open };
    this.sheet.hidden = true;
    this.takes.hidden = false;
    this.takes.style.gridTemplateColumns = `repeat(${best.columns}, ${Math.floor(best.side * width)}px)`;
    this.takes.style.gridAutoRows = `${Math.floor(best.side * height)}px`;
    if (this.takes.childElementCount !== count || this.takes.dataset.size !== `${width}x${height}`) {
      this.takes.dataset.size = `${width}x${height}`;
      this.takes.replaceChildren(...Array.from({ length: count }, (_, index) =>
        el("button", { type: "button", "aria-label": `Picture ${index + 1} of ${count}`, onclick: () => this.tiles.open(index) }, el("canvas", { width: 16, height: 16 }))));
    }
  }

  /** Show pictures on the tiles; `done` lets them be opened. */
  fill(bitmaps, done) {
    [...this.takes.children].forEach((tile, index) => {
      tile.disabled = !done;
      if (bitmaps[index]) this.#paint(tile.firstElementChild, bitmaps[index]);
    });
  }

  /** Lay the picture out in the room that there is. */
  layout() {
    if (!this.takes.hidden) {
      this.spread(this.tiles.count, this.tiles.size, this.tiles.open);
      return;
    }
    const { left, top, right, bottom } = this.margins, [width, height] = this.size;
    const all = [width + left + right, height + top + bottom];
    const room = this.arrowRoom ? ARROW_ROOM * 2 : this.stage.clientWidth < 480 ? 0 : ROOM * 2;
    const zoom = Math.min(MOST_ZOOM, (this.stage.clientWidth - room) / all[0], (this.stage.clientHeight - room) / all[1]);
    this.zoom = Math.max(0.01, zoom);
    this.#place(this.sheet, null, null, all[0], all[1]);
    for (const canvas of [this.picture, this.mask]) this.#place(canvas, left, top, width, height);
    this.sheet.toggleAttribute("data-ghost", left + top + right + bottom > 0);
    this.onlayout();
  }

  /** Return where on the picture an event is, which may be beyond its edges. */
  at(event) {
    const box = this.picture.getBoundingClientRect();
    return [((event.clientX - box.left) * this.size[0]) / box.width, ((event.clientY - box.top) * this.size[1]) / box.height];
  }

  #place(element, left, top, width, height) {
    if (left !== null) {
      element.style.left = `${left * this.zoom}px`;
      element.style.top = `${top * this.zoom}px`;
    }
    element.style.width = `${width * this.zoom}px`;
    element.style.height = `${height * this.zoom}px`;
  }

  #paint(canvas, bitmap) {
    if (canvas.width !== bitmap.width || canvas.height !== bitmap.height) {
      canvas.width = bitmap.width;
      canvas.height = bitmap.height;
    }
    const context = canvas.getContext("2d");
    context.clearRect(0, 0, bitmap.width, bitmap.height);
    context.drawImage(bitmap, 0, 0);
  }

  #tell(told) { this.picture.setAttribute("aria-label", told); }
}

/** Shimmer tiles of a mosaic over a canvas while there is no picture yet; return what stops it. */
export function shimmer(canvas, rows, columns) {
  const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
  const dark = getComputedStyle(document.documentElement).colorScheme.includes("dark");
  const context = canvas.getContext("2d"), side = 16;
  canvas.width = columns * side;
  canvas.height = rows * side;
  const begun = performance.now(), phases = Array.from({ length: rows * columns }, () => Math.random());
  let ended = false;
  const draw = () => {
    if (ended) return;
    const time = still ? 0 : (performance.now() - begun) / 1000;
    context.clearRect(0, 0, canvas.width, canvas.height);
    phases.forEach((phase, index) => {
      const light = 0.5 + 0.5 * Math.sin(6.28 * phase + time * (1 + phase));
      const tone = dark ? 12 + light * 12 : 90 - light * 10;
      context.fillStyle = `hsl(${phase > 0.93 ? 228 : 40} ${phase > 0.93 ? 45 : 6}% ${phase > 0.93 ? (dark ? 34 : 74) : tone}%)`;
      context.fillRect((index % columns) * side + 0.75, Math.floor(index / columns) * side + 0.75, side - 1.5, side - 1.5);
    });
    if (!still) setTimeout(() => requestAnimationFrame(draw), 60);
  };
  draw();
  return () => { ended = true; };
}
