// Painting on beyond the edges: arrows on the four sides, each press a few tokens further.
import { $, clamp, el, icon } from "./dom.js";
import { say } from "./tell.js";

const SIDES = { left: ["left", "ArrowLeft"], top: ["up", "ArrowUp"], right: ["right", "ArrowRight"], bottom: ["down", "ArrowDown"] };
const NONE = { left: 0, top: 0, right: 0, bottom: 0 };

/** Margins of a picture. `edit()` is called before each change; `most()` is how many pixels the whole may have. */
export class Extending {
  constructor(stage, { edit, factor, most, onchange }) {
    this.stage = stage;
    this.edit = edit;
    this.factor = factor;
    this.most = most;
    this.onchange = onchange;
    this.margins = { ...NONE };
    this.on = false;
    this.tokens = 4;
    this.buttons = Object.fromEntries(Object.entries(SIDES).map(([side, [name]]) => [side, el("button", { type: "button", id: `extend-${side}`, title: "Shift takes away", onclick: (event) => this.grow(side, event.shiftKey ? -1 : 1) }, icon(name), el("span", { class: "unseen" }))]));
    $("arrows").append(...Object.values(this.buttons));
  }

  reset() { this.margins = { ...NONE }; }

  get empty() { return Object.values(this.margins).every((side) => side === 0); }

  /** Turn the arrows on or off; `visible` says whether margins belong to what is shown. */
  turn(on, visible) {
    this.on = on;
    $("arrows").hidden = !on;
    this.stage.arrowRoom = on;
    this.stage.margins = on && visible ? this.margins : NONE;
    this.stage.layout();
  }

  /** Paint on further on a side by so many times the reach; less with -1. */
  grow(side, times) {
    if (!this.edit()) return;
    const step = this.tokens * this.factor(), before = this.margins[side];
    this.margins[side] = clamp(before + times * step, 0, 1 << 16);
    const [width, height] = this.whole();
    if (width * height > this.most()) {
      this.margins[side] = before;
      say("That would be more pixels than one picture may have");
      return;
    }
    say(`${this.margins[side]} pixels ${side === "top" ? "above" : side === "bottom" ? "below" : `on the ${side}`}`);
    this.onchange();
  }

  /** Return width and height of the whole. */
  whole() {
    const { left, top, right, bottom } = this.margins, [width, height] = this.stage.size;
    return [width + left + right, height + top + bottom];
  }

  /** Grow by the arrow keys, and less with Shift; return whether the key was for it. */
  key(event) {
    const found = this.on && Object.entries(SIDES).find(([, [, key]]) => key === event.key);
    if (!found) return false;
    this.grow(found[0], event.shiftKey ? -1 : 1);
    return true;
  }

  /** Put the arrows around the picture. */
  layout() {
    if (!this.on) return;
    const around = this.stage.sheet.getBoundingClientRect(), area = this.stage.stage.getBoundingClientRect();
    const away = 30, middle = [(around.left + around.right) / 2 - area.left, (around.top + around.bottom) / 2 - area.top];
    const places = {
      left: [around.left - area.left - away, middle[1]], right: [around.right - area.left + away, middle[1]],
      top: [middle[0], around.top - area.top - away], bottom: [middle[0], around.bottom - area.top + away],
    };
    for (const [side, button] of Object.entries(this.buttons)) {
      const [x, y] = places[side];
      button.style.left = `${clamp(x, 24, area.width - 24)}px`;
      button.style.top = `${clamp(y, 24, area.height - 24)}px`;
      const where = side === "top" ? "above" : side === "bottom" ? "below" : `on the ${side}`;
      button.querySelector("span").textContent = `Extend ${where}: ${this.margins[side]} pixels now`;
    }
  }
}
