// The mask of what is repainted: a list of strokes and shapes, drawn on a canvas as large as the picture.

/** A mask. Opaque is repainted. `onchange` is told after each change. */
export class Mask {
  constructor(canvas, onchange) {
    this.canvas = canvas;
    this.context = canvas.getContext("2d", { willReadFrequently: true });
    this.onchange = onchange;
    this.done = [];
    this.undone = [];
    this.empty = true;
  }

  /** Begin anew for a picture of this size. */
  reset(width, height) {
    this.canvas.width = width;
    this.canvas.height = height;
    this.done = [];
    this.undone = [];
    this.#changed();
  }

  /** Begin a stroke at a point; `add` goes on with it, also beyond the edges. Sizes are in pixels of the picture. */
  begin(point, size, erases) {
    this.stroke = { kind: "stroke", points: [point], size, erases };
    this.#draw(this.stroke);
  }

  add(points) {
    for (const point of points) {
      const { points: known, size, erases } = this.stroke;
      const part = { kind: "stroke", points: [known.at(-1), point], size, erases, goesOn: true };
      known.push(point);
      this.#draw(part);
    }
  }

  end() {
    if (this.stroke) this.#keep(this.stroke, false);
    this.stroke = null;
  }

  /** Take back a stroke that is under way, as when a second finger comes. */
  cancel() {
    this.stroke = null;
    this.#redraw();
  }

  rectangle(box, erases) { this.#keep({ kind: "rectangle", ...box, erases }); }
  invert() { this.#keep({ kind: "invert" }); }
  clear() { if (!this.empty) this.#keep({ kind: "clear" }); }
  /** Paint what a picture of a mask has in white. */
  image(bitmap) { this.#keep({ kind: "image", alpha: alphaOf(bitmap, this.canvas.width, this.canvas.height) }); }

  get undoable() { return this.done.length > 0; }
  get redoable() { return this.undone.length > 0; }
  undo() { if (this.undoable) { this.undone.push(this.done.pop()); this.#redraw(); } }
  redo() { if (this.redoable) { this.done.push(this.undone.pop()); this.#redraw(); } }

  /** Return the mask as a PNG, white where it repaints, and the share of the picture that is white. */
  async file() {
    const { width, height } = this.canvas;
    const pixels = this.context.getImageData(0, 0, width, height);
    for (let place = 0; place < pixels.data.length; place += 4) {
      const white = pixels.data[place + 3] > 127 ? 255 : 0;
      pixels.data[place] = pixels.data[place + 1] = pixels.data[place + 2] = white;
      pixels.data[place + 3] = 255;
    }
    const canvas = new OffscreenCanvas(width, height);
    canvas.getContext("2d").putImageData(pixels, 0, 0);
    return canvas.convertToBlob({ type: "image/png" });
  }

  /** Return the share of the picture that is repainted, 0 to 1. */
  share() {
    const { data } = this.context.getImageData(0, 0, this.canvas.width, this.canvas.height);
    let count = 0;
    for (let place = 3; place < data.length; place += 4) count += data[place] > 127;
    return (count * 4) / data.length;
  }

  /** Draw all again, as when the theme's colour changes. */
  refresh() { this.#redraw(); }

  #keep(act, draws = true) {
    this.done.push(act);
    this.undone = [];
    if (draws) this.#draw(act);
    this.#changed();
  }

  #redraw() {
    this.context.clearRect(0, 0, this.canvas.width, this.canvas.height);
    const begin = this.done.findLastIndex((act) => act.kind === "clear") + 1;
    for (const act of this.done.slice(begin)) this.#draw(act);
    this.#changed();
  }

  #draw(act) {
    const { context } = this, { width, height } = this.canvas;
    context.save();
    context.fillStyle = context.strokeStyle = getComputedStyle(document.documentElement).getPropertyValue("--mask");
    if (act.erases) context.globalCompositeOperation = "destination-out";
    if (act.kind === "stroke") {
      context.lineCap = context.lineJoin = "round";
      context.lineWidth = act.size;
      // Piece by piece, as it was painted: so that drawing it again gives the same soft edges.
      act.points.forEach((point, index) => {
        if (index === 0 && act.goesOn) return;
        context.beginPath();
        context.moveTo(...act.points[Math.max(0, index - 1)]);
        context.lineTo(...point);
        context.stroke();
      });
    } else if (act.kind === "rectangle") {
      context.fillRect(act.x, act.y, act.width, act.height);
    } else if (act.kind === "invert") {
      context.globalCompositeOperation = "source-out";
      context.fillRect(0, 0, width, height);
    } else if (act.kind === "clear") {
      context.clearRect(0, 0, width, height);
    } else if (act.kind === "image") {
      const layer = new OffscreenCanvas(width, height), painted = layer.getContext("2d");
      painted.drawImage(act.alpha, 0, 0);
      painted.globalCompositeOperation = "source-in";
      painted.fillStyle = context.fillStyle;
      painted.fillRect(0, 0, width, height);
      context.drawImage(layer, 0, 0);
    }
    context.restore();
  }

  #changed() {
    this.empty = this.canvas.width * this.canvas.height === 0 || this.share() === 0;
    this.onchange();
  }
}

/** Return a canvas that is opaque where a picture is white. */
function alphaOf(bitmap, width, height) {
  const canvas = new OffscreenCanvas(width, height), context = canvas.getContext("2d");
  context.drawImage(bitmap, 0, 0, width, height);
  const pixels = context.getImageData(0, 0, width, height);
  for (let place = 0; place < pixels.data.length; place += 4) pixels.data[place + 3] = pixels.data[place] > 127 ? 255 : 0;
  context.putImageData(pixels, 0, 0);
  return canvas;
}
