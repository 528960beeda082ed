// What is on the stage, and what is painted on: the picture that is shown, and the one that edits begin from.
import { $, el, iconButton, readable, seconds } from "./dom.js";
import { details } from "./details.js";
import { Extending } from "./extending.js";
import { Painting } from "./painting.js";
import { download, opened, suited, within } from "./picture.js";
import { Stage } from "./stage.js";
import { notice, say, status, toast } from "./tell.js";

const HELP = {
  generate: "The picture. Generate draws a new one.",
  inpaint: "Paint over what is to be drawn anew. With the rectangle, arrow keys move it, Shift and arrow keys resize it, Enter adds it to the mask, Delete takes it out.",
  outpaint: "Arrow keys paint on beyond that edge; Shift and arrow keys less far.",
  vary: "Vary draws the picture again with a share of it new.",
};

/** The pictures of the page. `controls` says the mode; `act` has what buttons beside a picture do. */
export class Studio {
  constructor(controls, act) {
    this.controls = controls;
    this.act = act;
    this.shown = null; // what is seen
    this.base = null; // what edits begin from; the same, but for the result of an edit
    this.takes = []; // all pictures of the last draw
    this.spread = false; // whether all of them are seen
    this.timing = null;
    this.stage = new Stage(() => { this.painting?.layout(); this.extending?.layout(); });
    const edit = () => this.edit(), factor = () => controls.factor, onchange = () => this.follow();
    this.painting = new Painting(this.stage, { edit, factor, onchange, back: () => this.back() });
    this.extending = new Extending(this.stage, { edit, factor, onchange, most: () => controls.limits.pixels });
    this.all = iconButton("grid", "All pictures of this draw", () => this.showAll(), { id: "all" });
    this.compare = iconButton("compare", "Compare with the picture before", () => this.#toggle(), { id: "compare", key: "C" });
    this.reach = el("input", { type: "number", class: "input short", id: "reach", min: 1, max: 64, value: 4, oninput: () => { this.extending.tokens = Math.max(1, Math.round(Number($("reach").value)) || 1); this.follow(); } });
    this.reachBox = el("label", { class: "row quiet", for: "reach" }, el("span", { text: "Each arrow" }), this.reach, el("span", { id: "reach-text" }));
    this.reachBox.hidden = this.all.hidden = this.compare.hidden = true;
    $("near").append(this.reachBox, this.all, this.compare);
  }

  /** Show a picture to begin from. */
  open(picture, { spread = [] } = {}) {
    this.shown = this.base = picture;
    this.takes = spread;
    this.spread = false;
    if (picture.resolution) this.controls.setResolution(picture.resolution);
    this.#label();
    this.painting.reset(picture.width, picture.height);
    this.extending.reset();
    this.follow(true);
  }

  /** Show a picture that was drawn from the base, which stays. */
  result(pictures, header) {
    this.timing = { seconds: header.seconds, calls: header.calls, pictures: pictures.length };
    this.takes = pictures;
    const fresh = pictures[0].recipe.call === "generate";
    if (fresh) this.base = null;
    this.shown = pictures[0];
    if (fresh && pictures.length === 1) return this.open(pictures[0]);
    if (pictures.length > 1) return this.showAll();
    this.spread = false;
    this.follow(true);
  }

  /** Show all pictures of the last draw side by side. */
  showAll() {
    this.spread = true;
    const [first] = this.takes;
    this.stage.spread(this.takes.length, [first.width, first.height], (index) => this.pick(index));
    this.stage.fill(this.takes.map((one) => one.bitmap), true);
    [...$("takes").children].forEach((tile, index) => {
      const { label, seed } = this.takes[index];
      tile.setAttribute("aria-label", `Picture ${index + 1} of ${this.takes.length}: ${label ? `${readable(label)}, ` : ""}seed ${seed}`);
    });
    this.follow();
  }

  /** Show one of the pictures of the last draw. */
  pick(index) {
    this.shown = this.takes[index];
    this.spread = false;
    if (!this.base) this.open(this.shown, { spread: this.takes });
    else this.follow(true);
    $("stage").focus({ preventScroll: true });
  }

  /** Make ready for a change: what is shown becomes what is painted on. Return whether there is a picture. */
  edit() {
    if (!this.shown) return false;
    if (this.shown !== this.base || this.spread) this.open(this.shown, { spread: this.takes });
    return true;
  }

  /** Show the base again where a result is shown; return whether it did. */
  back() {
    if (!this.base || this.shown === this.base) return false;
    this.#toggle();
    return true;
  }

  /** Follow the mode. */
  mode() {
    if (this.controls.mode !== "generate" && this.shown) this.edit();
    this.controls.suitResolution(this.base?.resolution);
    this.#label();
    this.follow(true);
  }

  /** Bring everything in line with what is shown; `draws` the picture, too. */
  follow(draws = false) {
    if (!this.controls.bundle) return;
    const { mode } = this.controls, picture = this.shown, own = picture === this.base && !this.spread;
    if (draws && picture && !this.spread) this.stage.show(picture, this.#told(picture));
    this.painting.turn(mode === "inpaint" && Boolean(picture) && !this.spread, own);
    this.extending.turn(mode === "outpaint" && Boolean(picture) && !this.spread, own);
    $("stage-help").textContent = HELP[mode];
    this.all.hidden = this.takes.length < 2 || this.spread;
    this.compare.hidden = !this.base || this.spread || !this.takes.length || this.takes.includes(this.base);
    this.compare.setAttribute("aria-pressed", own && !this.compare.hidden);
    this.reachBox.hidden = mode !== "outpaint";
    const { factor } = this.controls, { tokens } = this.extending;
    $("reach-text").textContent = `tokens, ${tokens * factor} px`;
    this.controls.show(Boolean(this.base) && (this.base.width % factor > 0 || this.base.height % factor > 0));
    this.tell();
    this.facts();
  }

  /** Show what is known of the picture, and of the bundle. */
  facts() {
    details({ picture: this.spread ? null : this.shown, timing: this.timing, bundle: this.controls.bundle, act: this.act });
  }

  /** Say under the picture what it is, and what can be done. */
  tell() {
    const { mode } = this.controls, picture = this.shown;
    if (!picture) return;
    if (this.spread) return status(`${this.takes.length} pictures. Choose one to see it large.`);
    const own = picture === this.base;
    if (mode === "inpaint" && own) return status(this.painting.mask.empty ? "Paint over what is to be drawn anew." : [`${(100 * this.painting.mask.share()).toFixed(1)} % `, "of the picture is drawn anew; every other pixel stays."]);
    if (mode === "outpaint" && own) {
      const [width, height] = [0, 1].map((axis) => (axis ? this.base.height + this.extending.margins.top + this.extending.margins.bottom : this.base.width + this.extending.margins.left + this.extending.margins.right));
      const label = this.controls.label.get(), alone = this.controls.bundle.canvases[label] === "own" ? ` ${readable(label)} was made for its own canvas; the result may be odd.` : "";
      return status(this.extending.empty ? `Choose where the picture goes on.${alone}` : `It becomes ${width} × ${height} pixels.`);
    }
    status([el("b", { text: picture.label ? readable(picture.label) : picture.title || "Picture" }), picture.seed === null ? "" : `  ·  seed ${picture.seed}`, `  ·  ${picture.width} × ${picture.height}`]);
  }

  /** Return what a draw is asked for by hand: {header, files, size}. Null, and a word about it, where something lacks. */
  async asked() {
    const { controls, base } = this, { mode } = controls, { label, seed, count, options, strength, feather, fit } = controls.read();
    const header = { do: "draw", call: mode, bundle: controls.bundle.name, count, seed, options };
    if (label !== null) header.label = label;
    if (mode === "generate") {
      const own = controls.bundle.grid.map((side) => side * controls.factor);
      return { header, files: [], size: options.size ?? [own[1], own[0]] };
    }
    if (!base) return this.#lacks("There is no picture yet. Draw one, or open one of yours.");
    const files = [["image", base.blob]], factor = controls.factor;
    const unfit = base.width % factor > 0 || base.height % factor > 0;
    if (unfit) header.fit = mode === "outpaint" && fit === "stretch" ? "pad" : fit;
    const round = { crop: Math.floor, stretch: Math.round }[header.fit] ?? Math.ceil;
    const fitted = ([width, height]) => [width, height].map((side) => Math.max(1, round(side / factor)) * factor);
    if (mode === "vary") return { header: { ...header, strength }, files, size: fitted([base.width, base.height]) };
    header.feather = feather;
    if (mode === "outpaint") {
      const { margins } = this.extending;
      if (this.extending.empty) return this.#lacks("Choose a side first: press an arrow around the picture.");
      return { header: { ...header, ...margins }, files, size: fitted([base.width + margins.left + margins.right, base.height + margins.top + margins.bottom]) };
    }
    if (this.painting.mask.empty) return this.#lacks("Paint over what is to be drawn anew first.");
    files.push(["mask", await this.painting.mask.file()]);
    return { header, files, size: fitted([base.width, base.height]) };
  }

  /** Bring back what a recipe began from, where the gallery kept it. */
  async restore(recipe) {
    this.controls.write(recipe);
    if (!recipe.image) return;
    try {
      const [image, mask] = await Promise.all([recipe.image, recipe.mask].map(async (digest) => (digest ? opened(await input(digest)) : null)));
      const { shown, takes } = this;
      this.open({ ...image, title: "Picture that it began from", resolution: recipe.options.resolution });
      if (mask) this.painting.mask.image(mask.bitmap);
      if (recipe.margins) [this.extending.margins.left, this.extending.margins.top, this.extending.margins.right, this.extending.margins.bottom] = recipe.margins;
      if (shown) { this.shown = shown; this.takes = takes.length ? takes : [shown]; }
      this.follow(true);
    } catch { toast("The picture that it began from is no longer in this gallery."); }
  }

  /** Open a file of one's own to paint on. */
  async openFile(file) {
    const { controls } = this;
    let picture;
    try {
      picture = await opened(file, { title: file.name || "Pasted picture" });
    } catch {
      toast(`${file.name || "This"} is no picture that can be read. PNG, JPEG, WebP, GIF and BMP can.`, { bad: true });
      return;
    }
    picture = await within(picture, controls.limits.pixels);
    if (picture.reduced) toast(`It was reduced from ${picture.reduced} to ${picture.width}×${picture.height}, the most that a picture may have here.`);
    picture.resolution = suited(controls.bundle, picture);
    if (controls.mode === "generate" && controls.bundle.calls.includes("inpaint")) controls.setMode("inpaint");
    this.open(picture);
    notice(null);
    say(`${picture.title} is open, ${picture.width} by ${picture.height} pixels`);
  }

  /** Draw under the picture's own label where none is chosen: the networks saw few pictures without one. */
  #label() {
    if (this.controls.mode !== "generate" && this.base?.label && this.controls.label.get() === null) this.controls.label.set(this.base.label);
  }

  download() { if (this.shown && !this.spread) download(this.shown); }

  #toggle() {
    if (!this.base || !this.takes.length) return;
    this.shown = this.shown === this.base ? (this.after ?? this.takes[0]) : ((this.after = this.shown), this.base);
    this.follow(true);
  }

  #lacks(text) {
    toast(text);
    $("stage").focus({ preventScroll: true });
    return null;
  }

  #told(picture) { return [picture.label ? readable(picture.label) : picture.title || "Picture", picture.seed === null ? "" : `seed ${picture.seed}`, `${picture.width} by ${picture.height} pixels`].filter(Boolean).join(", "); }
}

async function input(digest) {
  const answer = await fetch(`/studio/inputs/${digest}`);
  if (!answer.ok) throw new Error("not kept");
  return answer.blob();
}

/** Say how a draw ended. */
export function ended(pictures, header, begun) {
  const [first] = pictures, took = seconds((performance.now() - begun) / 1000);
  say(`${pictures.length === 1 ? `Done: ${first.label ? readable(first.label) : "a picture"}, seed ${first.seed}` : `Done: ${pictures.length} pictures`}, in ${took}`);
}
