// Keyboard shortcuts, and the dialog that lists them.
import { $, el, iconButton } from "./dom.js";

const STORED = "smalti-single-keys";
const TEXTS = new Set(["text", "number", "search"]);

/** Shortcuts. `actions` are groups [title, [[keys, text, run, when]]]; keys such as "Ctrl+Enter" or "R". */
export class Keys {
  constructor(groups) {
    this.groups = groups;
    this.single = read(STORED) !== "off";
    addEventListener("keydown", (event) => this.#pressed(event));
  }

  /** Show the list. */
  open() {
    const dialog = $("keys"), close = iconButton("clear", "Close", () => dialog.close());
    const parts = this.groups.flatMap(([title, actions]) => [
      el("h3", { text: title }),
      el("dl", {}, ...actions.filter(([, text]) => text).flatMap(([keys, text]) => [el("dt", { text }), el("dd", {}, ...shown(keys))]))]);
    const box = el("input", { type: "checkbox", id: "single-keys", onchange: () => { this.single = box.checked; write(STORED, box.checked ? "on" : "off"); } });
    box.checked = this.single;
    dialog.replaceChildren(el("header", {}, el("h2", { id: "keys-title", text: "Keyboard shortcuts" }), close), el("div", { class: "body", tabindex: "0" }, ...parts),
      el("footer", {}, box, el("label", { for: "single-keys", text: "Shortcuts of a single letter" })));
    dialog.showModal();
  }

  #pressed(event) {
    if (event.defaultPrevented || event.isComposing || $("keys").open) return;
    const { target } = event, held = event.ctrlKey || event.metaKey;
    const writes = (target.tagName === "INPUT" && TEXTS.has(target.type)) || target.tagName === "SELECT";
    if (writes && !(held && event.key === "Enter") && event.key !== "Escape") return;
    const name = [held && "Ctrl", event.shiftKey && event.key.length > 1 && "Shift", held && event.shiftKey && event.key.length === 1 && "Shift", event.key.length === 1 ? event.key.toUpperCase() : event.key].filter(Boolean).join("+");
    for (const [, actions] of this.groups) for (const [keys, , run, when] of actions) {
      const found = run && keys.split(" or ").includes(name);
      if (!found || (!held && event.key.length === 1 && event.key !== "?" && !this.single) || (when && !when())) continue;
      event.preventDefault();
      run();
      return;
    }
  }
}

function shown(keys) {
  return keys.split(" or ").flatMap((one, index) => [index ? el("span", { class: "quiet", text: "or" }) : null, ...one.split("+").map((key) => el("kbd", { text: key }))]).filter(Boolean);
}

export function read(name) {
  try { return localStorage.getItem(name); } catch { return null; }
}

export function write(name, value) {
  try { localStorage.setItem(name, value); } catch { /* it is forgotten, then */ }
}
