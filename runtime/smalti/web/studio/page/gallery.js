// The strip of pictures that the gallery keeps, the newest first.
import { $, el, readable } from "./dom.js";
import { toast } from "./tell.js";

const NEAR_END = 400;

/** The gallery. `open(entry)` is called when one is chosen; `deleted(name)` after one is put away. */
export class Gallery {
  constructor({ open, deleted }) {
    this.open = open;
    this.deleted = deleted;
    this.strip = $("strip");
    this.entries = [];
    this.more = false;
    this.current = null;
    this.strip.addEventListener("scroll", () => {
      if (this.more && this.strip.scrollLeft + this.strip.clientWidth > this.strip.scrollWidth - NEAR_END) this.#older();
    });
    this.strip.addEventListener("keydown", (event) => this.#key(event));
  }

  /** Read the list anew. Return whether it could be read. */
  async refresh() {
    try {
      const answer = await fetch("/studio/gallery");
      if (!answer.ok) return false;
      const { folder, pictures, more } = await answer.json();
      this.entries = pictures;
      this.more = more;
      $("folder").textContent = folder;
      $("folder").title = folder;
    } catch { return false; }
    this.#show();
    return true;
  }

  /** Mark the picture that is shown. */
  mark(name) {
    this.current = name;
    for (const button of this.strip.querySelectorAll("button")) button.setAttribute("aria-current", button.dataset.name === name);
  }

  /** Put a picture away, with a way back. */
  async remove(name) {
    const index = this.entries.findIndex((one) => one.name === name);
    const answer = await this.#ask(name, "DELETE", "");
    if (!answer) return;
    this.entries = this.entries.filter((one) => one.name !== name);
    this.#show();
    this.strip.querySelectorAll("button")[Math.min(Math.max(index, 0), this.entries.length - 1)]?.focus();
    this.deleted(name, this.entries[Math.min(Math.max(index, 0), this.entries.length - 1)] ?? null);
    toast(`${name} is deleted`, { action: { text: "Undo", run: async () => { if (await this.#ask(name, "POST", "/restore")) { await this.refresh(); this.open(this.entries.find((one) => one.name === name)); } } }, stays: 10_000 });
  }

  async #ask(name, method, end) {
    try {
      const answer = await fetch(`/studio/gallery/${encodeURIComponent(name)}${end}`, { method });
      if (answer.ok) return true;
      toast((await answer.json()).error.message, { bad: true });
    } catch {
      toast("The studio cannot be reached now; try again once it is connected.", { bad: true });
    }
    return false;
  }

  async #older() {
    this.more = false;
    const answer = await fetch(`/studio/gallery?after=${encodeURIComponent(this.entries.at(-1).name)}`);
    if (!answer.ok) return;
    const { pictures, more } = await answer.json();
    this.entries.push(...pictures);
    this.more = more;
    this.strip.append(...pictures.map((one) => this.#item(one)));
  }

  #show() {
    if (!this.entries.length) {
      this.strip.replaceChildren(el("li", { class: "none", text: "Pictures that you draw are kept here." }));
      return;
    }
    const known = new Map([...this.strip.querySelectorAll("li[data-key]")].map((item) => [item.dataset.key, item]));
    this.strip.replaceChildren(...this.entries.map((one) => known.get(`${one.name} ${one.version}`) ?? this.#item(one)));
    this.mark(this.current);
  }

  #item(entry) {
    const { name, version, recipe } = entry;
    const label = `${recipe.labels[0] ? readable(recipe.labels[0]) : "Picture"}, seed ${recipe.seeds[0]}`;
    const image = el("img", { src: `/studio/gallery/${encodeURIComponent(name)}/thumb?v=${version}`, alt: "", loading: "lazy", height: 72 });
    image.addEventListener("error", () => { image.closest("li")?.remove(); });
    return el("li", { "data-key": `${name} ${version}` },
      el("button", { type: "button", "data-name": name, title: label, "aria-label": label, "aria-current": name === this.current, onclick: () => this.open(entry) }, image));
  }

  #key(event) {
    const button = event.target.closest("button");
    if (!button) return;
    const next = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (next) {
      const all = [...this.strip.querySelectorAll("button")];
      all[all.indexOf(button) + next]?.focus();
    } else if (event.key === "Delete") {
      this.remove(button.dataset.name);
    } else return;
    event.preventDefault();
    event.stopPropagation();
  }
}
