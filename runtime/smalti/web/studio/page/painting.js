// Painting the mask: brush, eraser and rectangle, by pointer and by keys, also beyond the picture's edges.
import { $, clamp, el, iconButton } from "./dom.js";
import { Mask } from "./mask.js";
import { say } from "./tell.js";

const SIDES = ["x", "y", "width", "height"];
const WORDS = { x: "Left", y: "Top", width: "Width", height: "Height" };
const MOVES = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

/**
 * `stage` is where it is painted. `edit()` is called before each change, and returns whether there is a picture;
 * `back()` is called to undo when a result is shown, and returns whether it did. `factor()` is a token's side.
 */
export class Painting {
  constructor(stage, { edit, back, factor, onchange }) {
    this.stage = stage;
    this.edit = edit;
    this.back = back;
    this.factor = factor;
    this.onchange = onchange;
    this.tool = "brush";
    this.on = false;
    this.box = null;
    this.mask = new Mask($("mask"), () => this.#changed());
    this.#toolbar();
    const area = stage.stage;
    area.addEventListener("pointerdown", (event) => this.#down(event));
    area.addEventListener("pointermove", (event) => this.#move(event));
    area.addEventListener("pointerup", (event) => this.#up(event));
    area.addEventListener("pointercancel", () => this.#cancel());
    area.addEventListener("pointerleave", () => { $("ring").hidden = true; });
    area.addEventListener("contextmenu", (event) => { if (this.on) event.preventDefault(); });
  }

  /** Begin anew for a picture. */
  reset(width, height) {
    const longest = Math.max(width, height);
    this.mask.reset(width, height);
    if (this.longest !== longest) {
      this.longest = longest;
      this.size.max = Math.round(longest / 2);
      this.setSize(Math.round(longest / 9));
    }
    this.box = null;
    this.#showBox();
  }

  /** Turn painting on or off; `visible` says whether the mask belongs to what is shown. */
  turn(on, visible) {
    this.on = on;
    $("tools").hidden = !on;
    $("mask").hidden = !(on && visible);
    const area = this.stage.stage;
    area.toggleAttribute("data-paints", on);
    area.toggleAttribute("data-ring", on && this.tool !== "rectangle");
    if (on) area.dataset.touch = "none";
    else delete area.dataset.touch;
    if (!on) $("ring").hidden = true;
    this.#showBox();
  }

  choose(tool) {
    this.tool = tool;
    for (const [name, button] of Object.entries(this.buttons)) button.setAttribute("aria-pressed", name === tool);
    this.sizeGroup.hidden = tool === "rectangle";
    this.boxGroup.hidden = tool !== "rectangle";
    this.tip.hidden = tool === "rectangle";
    $("ring").toggleAttribute("data-erases", tool === "eraser");
    this.stage.stage.toggleAttribute("data-ring", this.on && tool !== "rectangle");
    if (tool === "rectangle") $("ring").hidden = true;
    this.#showBox();
  }

  setSize(pixels) {
    this.size.value = clamp(pixels, 1, Number(this.size.max));
    this.size.style.setProperty("--at", `${(100 * (this.size.value - 1)) / (this.size.max - 1)}%`);
    this.sizeText.textContent = `${this.size.value} px`;
  }

  /** Make the brush larger or smaller. */
  grow(share) { this.setSize(Math.max(1, Math.round(this.size.value * share + Math.sign(share - 1)))); }

  undo() { if (!this.back()) this.mask.undo(); }
  redo() { this.mask.redo(); }
  invert() { if (this.edit()) { this.mask.invert(); say("The mask is inverted"); } }
  clear() { if (this.edit()) { this.mask.clear(); say("The mask is empty"); } }

  /** Put the rectangle into the mask, or take it out. */
  apply(erases) {
    if (!this.edit()) return;
    this.mask.rectangle(this.#rectangle(), erases);
    say(erases ? "The rectangle is taken out of the mask" : "The rectangle is added to the mask");
  }

  /** Move or resize the rectangle by keys; return whether the key was for it. */
  key(event) {
    if (!this.on || this.tool !== "rectangle") return false;
    if (event.key === "Enter" || event.key === "Delete" || event.key === "Backspace") {
      this.apply(event.key !== "Enter");
      return true;
    }
    const move = MOVES[event.key];
    if (!move) return false;
    const box = this.#rectangle(), step = event.altKey ? 1 : this.factor();
    const [width, height] = this.stage.size;
    if (event.shiftKey) {
      box.width = clamp(box.width + move[0] * step, step, width - box.x);
      box.height = clamp(box.height + move[1] * step, step, height - box.y);
    } else {
      box.x = clamp(box.x + move[0] * step, 0, width - box.width);
      box.y = clamp(box.y + move[1] * step, 0, height - box.height);
    }
    this.box = box;
    this.#showBox();
    say(`Rectangle ${box.width} by ${box.height}, ${box.x} from the left, ${box.y} from the top`);
    return true;
  }

  #toolbar() {
    const tool = (name, icon, label, key) => iconButton(icon, label, () => this.choose(name), { key, "aria-pressed": false, id: `tool-${name}` });
    this.buttons = { brush: tool("brush", "brush", "Brush", "B"), eraser: tool("eraser", "eraser", "Eraser", "E"), rectangle: tool("rectangle", "rectangle", "Rectangle", "M") };
    this.size = el("input", { type: "range", min: 1, max: 256, id: "brush-size", "aria-label": "Size of the brush", oninput: () => this.setSize(Number(this.size.value)) });
    this.sizeText = el("output", { for: "brush-size" });
    this.sizeGroup = el("div", { class: "group" }, el("label", {}, el("span", { text: "Size" }), this.size, this.sizeText));
    this.inputs = Object.fromEntries(SIDES.map((side) => [side, el("input", { type: "number", class: "input short", min: 0, id: `box-${side}`, oninput: () => this.#typed() })]));
    this.boxGroup = el("div", { class: "group", role: "group", "aria-label": "Rectangle" },
      ...SIDES.map((side) => el("label", {}, el("span", { text: WORDS[side] }), this.inputs[side])),
      iconButton("plus", "Add the rectangle to the mask", () => this.apply(false), { id: "box-add" }),
      iconButton("minus", "Take the rectangle out of the mask", () => this.apply(true), { id: "box-take" }));
    this.undoButton = iconButton("undo", "Undo", () => this.undo(), { key: "Ctrl Z", id: "undo" });
    this.redoButton = iconButton("redo", "Redo", () => this.redo(), { key: "Ctrl Shift Z", id: "redo" });
    this.clearButton = iconButton("clear", "Clear the mask", () => this.clear(), { key: "Delete", id: "clear" });
    $("tools").append(
      el("div", { class: "group" }, ...Object.values(this.buttons)), this.sizeGroup, this.boxGroup,
      el("div", { class: "group" }, iconButton("invert", "Invert the mask", () => this.invert(), { key: "I", id: "invert" }), this.undoButton, this.redoButton, this.clearButton),
      this.tip = el("p", { class: "tip", text: "Shift erases" }));
    this.choose("brush");
  }

  #down(event) {
    if (!this.on || event.target.closest("button") || !(event.button === 0 || event.button === 2)) return;
    if (!event.isPrimary) return this.#cancel();
    if (!this.edit()) return;
    event.preventDefault();
    this.stage.stage.focus({ preventScroll: true });
    this.stage.stage.setPointerCapture(event.pointerId);
    const point = this.stage.at(event), erases = this.tool === "eraser" || event.shiftKey || event.button === 2;
    this.pointer = { id: event.pointerId, erases, anchor: point };
    if (this.tool !== "rectangle") this.mask.begin(point, Number(this.size.value), erases);
  }

  #move(event) {
    this.#ring(event);
    if (!this.pointer || event.pointerId !== this.pointer.id) return;
    const events = event.getCoalescedEvents?.() ?? [];
    const points = (events.length ? events : [event]).map((one) => this.stage.at(one));
    if (this.tool !== "rectangle") return this.mask.add(points);
    const [width, height] = this.stage.size, [first, last] = [this.pointer.anchor, points.at(-1)];
    const span = (one, other, most) => [clamp(Math.round(Math.min(one, other)), 0, most), clamp(Math.round(Math.max(one, other)), 0, most)];
    const [left, right] = span(first[0], last[0], width), [top, bottom] = span(first[1], last[1], height);
    this.box = { x: left, y: top, width: right - left, height: bottom - top };
    this.pointer.moved = true;
    this.#showBox();
  }

  #up(event) {
    if (!this.pointer || event.pointerId !== this.pointer.id) return;
    const { erases, moved } = this.pointer;
    this.pointer = null;
    if (this.tool !== "rectangle") this.mask.end();
    else if (moved && this.box.width && this.box.height) this.mask.rectangle({ ...this.box }, erases);
  }

  #cancel() {
    this.pointer = null;
    this.mask.cancel();
  }

  #ring(event) {
    const ring = $("ring");
    ring.hidden = !this.on || this.tool === "rectangle" || event.pointerType === "touch" || Boolean(event.target.closest?.("button"));
    if (ring.hidden) return;
    const box = this.stage.stage.getBoundingClientRect(), side = Math.max(3, this.size.value * this.stage.zoom);
    ring.style.width = ring.style.height = `${side}px`;
    ring.style.transform = `translate(${event.clientX - box.left - side / 2}px, ${event.clientY - box.top - side / 2}px)`;
  }

  /** Return the rectangle; by default the middle of the picture, on the grid of its tokens. */
  #rectangle() {
    if (this.box) return { ...this.box };
    const factor = this.factor();
    const middle = (side) => { const half = Math.max(factor, Math.round(side / 2 / factor) * factor); return [Math.round((side - half) / 2 / factor) * factor, Math.min(side, half)]; };
    const [x, width] = middle(this.stage.size[0]), [y, height] = middle(this.stage.size[1]);
    return { x, y, width, height };
  }

  #typed() {
    const box = Object.fromEntries(SIDES.map((side) => [side, Math.max(0, Math.round(Number(this.inputs[side].value)) || 0)]));
    this.box = box;
    this.#showBox(false);
  }

  #showBox(writes = true) {
    const shown = this.on && this.tool === "rectangle" && !$("mask").hidden;
    $("rectangle").hidden = !shown;
    if (!shown) return;
    const box = this.#rectangle(), { style } = $("rectangle"), { zoom } = this.stage;
    [style.left, style.top, style.width, style.height] = SIDES.map((side) => `${box[side] * zoom}px`);
    if (writes) for (const side of SIDES) this.inputs[side].value = box[side];
  }

  /** Follow the picture when it is laid out anew. */
  layout() { this.#showBox(); }

  #changed() {
    this.undoButton.disabled = !this.mask.undoable;
    this.redoButton.disabled = !this.mask.redoable;
    this.clearButton.disabled = this.mask.empty;
    this.onchange();
  }
}
