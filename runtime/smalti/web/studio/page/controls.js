// The panel: what is drawn, from what a bundle says of itself. No name of a label or an option is written here, but
// those that have a control of their own kind.
import { $, el, icon, iconButton, readable, setIcon } from "./dom.js";
import { chips, choice, free, slider } from "./fields.js";

const MOST_CHIPS = 24;
const OWN = new Set(["resolution", "size", "steps"]);
const MOST_SEED = 2n ** 64n - 1n;
const SHAPES = [["Wide", 1.5, 1], ["Wider", 2, 1], ["Tall", 1, 1.5], ["Taller", 1, 2]];
export const MODES = [
  ["generate", "Create", "create", "Generate"],
  ["inpaint", "Repaint", "repaint", "Repaint"],
  ["outpaint", "Extend", "extend", "Paint on"],
  ["vary", "Vary", "vary", "Vary"],
];

/** The controls of a bundle. `onchange` is told when anything is changed by hand. */
export class Controls {
  constructor(onchange, onmode) {
    this.onchange = onchange;
    this.mode = "generate";
    this.locked = false;
    this.used = true; // whether the seed was drawn with, so that the next draw takes another
    this.bundle = null;
    for (const [value, text, name] of MODES) {
      const input = el("input", { type: "radio", name: "mode", value, onchange: () => { this.mode = value; this.show(); onmode(value); } });
      input.checked = value === this.mode;
      $("modes").append(el("label", {}, input, icon(name), el("span", { text })));
    }
    $("controls").addEventListener("input", onchange);
  }

  /** Build everything anew for a bundle; values that it knows too are kept. */
  build(bundle, limits) {
    const before = this.bundle ? this.read() : null;
    this.bundle = bundle;
    this.limits = limits;
    for (const input of $("modes").querySelectorAll("input")) input.disabled = !bundle.calls.includes(input.value);
    if (!bundle.calls.includes(this.mode)) this.setMode("generate");
    const labels = [[null, this.mode === "generate" ? "Any" : "None"], ...bundle.labels.map((one) => [one, readable(one)])];
    const kind = labels.length > MOST_CHIPS ? choice : chips;
    this.label = kind({ name: "label", label: "Label", choices: labels, value: before?.label ?? null, onchange: () => this.#suit() });
    this.seed = this.#seed(before?.seed ?? "1");
    this.count = slider({ name: "count", label: "Pictures", least: 1, most: Math.min(9, limits.count), step: 1, value: before?.count ?? 1 });
    this.resolution = bundle.resolutions.length > 1 ? chips({
      name: "resolution", label: "Resolution", even: true, value: before?.options.resolution ?? this.#default("resolution"),
      choices: bundle.resolutions.map(({ pixels }) => [pixels, String(pixels)]), onchange: () => this.#offerSizes(),
    }) : null;
    this.size = this.#sizes();
    const steps = this.#option("steps");
    this.steps = steps ? this.#field({ ...steps, text: null }) : null;
    this.strength = slider({ name: "strength", label: "How much is new", hint: "Share of the picture’s tokens that is drawn anew.", least: 0.05, most: 1, step: 0.05, value: 0.3 });
    this.feather = slider({ name: "feather", label: "Soft edge", hint: "Pixels in which the new part fades into the old.", least: 0, most: 64, step: 1, value: 0 });
    this.fit = choice({ name: "fit", label: "Sides that tokens do not fill", choices: [["pad", "Continue the last row and column"], ["crop", "Cut the edges"], ["stretch", "Stretch a little"]], value: "pad" });
    this.more = bundle.options.filter((one) => !OWN.has(one.name)).map((one) => this.#field(one));
    const reset = el("button", { type: "button", class: "button", text: "Back to the bundle’s own", onclick: () => { this.reset(); this.onchange(); } });
    const folded = el("details", { class: "more" }, el("summary", {}, el("span", { text: "Sampling" }), icon("chevron")),
      el("div", {}, ...this.more.map((one) => one.box), reset));
    const parts = [this.label, this.seed, this.count, this.resolution, this.size, this.strength, this.feather, this.fit, this.steps];
    $("controls").replaceChildren(...parts.filter(Boolean).map((one) => one.box), folded);
    this.#suit();
    this.show();
  }

  /** Return what is asked for: label, seed, count, and options that are not the bundle's own. */
  read() {
    const options = {};
    const fields = [this.resolution, this.steps, ...this.more].filter(Boolean);
    for (const field of fields) {
      const value = field.get();
      if (value !== null && JSON.stringify(value) !== JSON.stringify(this.#default(field.name))) options[field.name] = value;
    }
    if (this.mode === "generate" && this.size) {
      const size = this.size.get();
      if (size) options.size = size;
    }
    const asked = { label: this.label.get(), seed: this.seed.get(), count: this.count.get() ?? 1, options };
    return { ...asked, strength: this.strength.get(), feather: this.feather.get() ?? 0, fit: this.fit.get() };
  }

  /** Set everything as a recipe has it. */
  write(recipe) {
    const { options } = recipe;
    this.setMode(recipe.call);
    this.chosen = null;
    this.label.set(recipe.labels[0]);
    this.seed.set(recipe.seeds[0]);
    this.used = false;
    this.count.set(recipe.seeds.length);
    this.resolution?.set(options.resolution);
    for (const field of [this.steps, ...this.more].filter(Boolean)) field.set(options[field.name] ?? this.#default(field.name));
    this.#offerSizes(recipe.call === "generate" ? options.size : null);
    if (recipe.strength !== null) this.strength.set(recipe.strength);
    this.feather.set(recipe.feather);
    if (recipe.fit) this.fit.set(recipe.fit);
    this.#suit();
  }

  /** Set sampling and steps to the bundle's own. */
  reset() {
    for (const field of [this.steps, ...this.more].filter(Boolean)) field.set(this.#default(field.name));
  }

  setMode(mode) {
    this.mode = mode;
    for (const input of $("modes").querySelectorAll("input")) input.checked = input.value === mode;
    this.show();
  }

  /** Show what belongs to the mode; `unfit` where the picture's sides are no multiples of a token's. */
  show(unfit = this.unfit) {
    this.unfit = unfit;
    if (!this.bundle) return;
    const generates = this.mode === "generate";
    if (this.size) this.size.box.hidden = !generates;
    if (this.resolution) this.resolution.box.hidden = !generates; // a picture that is changed keeps its own
    this.strength.box.hidden = this.mode !== "vary";
    this.feather.box.hidden = generates || this.mode === "vary";
    this.fit.box.hidden = generates || !unfit;
    const none = this.label.box.querySelector("label span, option");
    if (none) none.textContent = generates ? "Any" : "None";
    $("go-text").textContent = MODES.find(([value]) => value === this.mode)[3];
  }

  /** Roll the dice. */
  roll() {
    this.seed.set(String(crypto.getRandomValues(new Uint32Array(1))[0]));
    this.used = false;
  }

  /** Choose the seed of the next draw: the one that is shown, unless it was drawn with and is not kept. */
  settleSeed() {
    if (this.used && !this.locked) this.roll();
    this.used = true;
  }

  /** Say what is wrong with the seed, and go there; null where nothing is. What else is wrong the server says. */
  wrong() {
    const { field } = this.seed;
    if (seedOf(field.value) !== null) return null;
    field.setAttribute("aria-invalid", "true");
    field.focus();
    return `Seed ${field.value ? `“${field.value}”` : "is empty"}: a whole number from 0 to ${MOST_SEED} is needed. The dice roll one.`;
  }

  toggleLock() { this.#lock(!this.locked); }

  /** Choose a resolution, such as that of a picture. */
  setResolution(pixels) { this.resolution?.set(pixels); }

  /** Take the resolution of a picture while it is changed, and in Create the one that was chosen there. */
  suitResolution(pixels) {
    if (this.mode === "generate") {
      if (this.chosen) this.setResolution(this.chosen);
      this.chosen = null;
    } else if (pixels) {
      this.chosen ??= this.resolution?.get();
      this.setResolution(pixels);
    }
  }

  /** Return the pixels of a token's side at the resolution that is chosen. */
  get factor() {
    const pixels = this.resolution?.get() ?? this.bundle.resolutions[0].pixels;
    return (this.bundle.resolutions.find((one) => one.pixels === pixels) ?? this.bundle.resolutions[0]).factor;
  }

  #lock(locked) {
    this.locked = locked;
    this.lockButton.setAttribute("aria-pressed", locked);
    setIcon(this.lockButton, locked ? "lock" : "unlock");
    this.lockButton.title = locked ? "Seed is kept (L)" : "Each draw takes a new seed (L)";
  }

  #option(name) { return this.bundle.options.find((one) => one.name === name); }
  #default(name) { return this.#option(name)?.default ?? null; }

  #seed(value) {
    const field = el("input", { type: "text", id: "seed", class: "input", inputmode: "numeric", pattern: "[0-9]{1,20}", maxlength: 20, spellcheck: "false" });
    field.value = value;
    field.addEventListener("input", () => {
      field.setAttribute("aria-invalid", seedOf(field.value) === null);
      this.used = false;
      this.#lock(true);
    });
    this.lockButton = iconButton("unlock", "Keep this seed", () => this.toggleLock(), { id: "lock" });
    const dice = iconButton("dice", "Roll a new seed", () => { this.roll(); this.onchange(); }, { id: "dice", key: "R" });
    const box = el("div", { class: "field" }, el("label", { for: "seed", text: "Seed" }), el("div", { class: "row" }, field, dice, this.lockButton));
    this.#lock(this.locked);
    const get = () => (seedOf(field.value) ?? 0n).toString();
    return { name: "seed", box, field, get, set: (given) => { field.value = given; field.setAttribute("aria-invalid", "false"); } };
  }

  #field({ name, text, default: value, choices, slider: span }) {
    const about = { name, label: readable(name), hint: text, value };
    if (choices) return choice({ ...about, choices: choices.map((one) => [one, readable(String(one))]) });
    if (span && value !== null && !Array.isArray(value)) return slider({ ...about, ...span });
    const read = (given) => {
      const found = given.split(/[\s,x]+/).map((one) => (Number.isNaN(Number(one)) ? one : Number(one)));
      return found.length === 1 ? found[0] : found;
    };
    return free({ ...about, read });
  }

  #sizes() {
    if (!this.#option("size") || !this.#option("stride")) return null; // such a bundle draws only its own size
    const width = el("input", { type: "number", id: "width", class: "input", min: 1 });
    const height = el("input", { type: "number", id: "height", class: "input", min: 1 });
    const own = el("div", { class: "pair" }, el("label", { text: "Width" }, width), el("label", { text: "Height" }, height));
    own.hidden = true;
    const list = choice({ name: "size", label: "Canvas", choices: [[null, ""]], value: null, onchange: () => { own.hidden = list.get() !== "custom"; this.#suit(); } });
    list.box.insertBefore(own, list.note);
    this.canvas = { list, own, width, height };
    const get = () => (list.get() === "custom" ? [Number(width.value), Number(height.value)] : list.get());
    const made = { name: "size", box: list.box, get, set: () => {} };
    this.size = made;
    this.#offerSizes();
    return made;
  }

  /** Offer canvases at the resolution that is chosen; `size` is one to choose. */
  #offerSizes(size) {
    if (!this.size) return;
    const { list, own, width, height } = this.canvas;
    const chosen = Number(list.select.value), { factor } = this, [rows, columns] = this.bundle.grid;
    const shape = (across, down) => [Math.round(columns * across) * factor, Math.round(rows * down) * factor];
    const base = shape(1, 1), told = ([across, down]) => `${across} × ${down}`;
    const offered = [[null, `Own, ${told(base)}`]];
    for (const [text, across, down] of SHAPES) {
      const one = shape(across, down);
      if (one[0] * one[1] <= this.limits.pixels) offered.push([one, `${text}, ${told(one)}`]);
    }
    offered.push(["custom", "Other…"]);
    width.step = height.step = factor;
    list.offer(offered, offered[Math.max(0, chosen)]?.[0] ?? null);
    if (size) {
      const known = String(size) === String(base) ? null : size;
      const found = offered.find(([one]) => JSON.stringify(one) === JSON.stringify(known));
      list.set(found ? found[0] : "custom");
    }
    if (size || !width.value) [width.value, height.value] = size ?? base;
    own.hidden = list.get() !== "custom";
  }

  /** Say what canvas suits the label, by the bundle's own account. */
  #suit() {
    if (!this.size) return;
    const size = this.size.get(), suits = this.bundle.canvases[this.label.get()] ?? "any";
    const own = this.bundle.grid.map((side) => side * this.factor);
    const bad = size && (suits === "own" || (suits === "wide" && size[1] !== own[0]));
    const { note } = this.canvas.list;
    note.hidden = !bad;
    if (bad) note.textContent = `${readable(this.label.get())} suits ${suits === "own" ? "its own canvas" : "wide canvases of its own height"} best.`;
  }
}

/** Return a seed as a number; null for what is none. */
function seedOf(text) {
  const seed = /^\d{1,20}$/.test(text.trim()) ? BigInt(text.trim()) : null;
  return seed !== null && seed <= MOST_SEED ? seed : null;
}
