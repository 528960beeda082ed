// What is told: the line under the picture, toasts, and a quiet line for screen readers.
import { $, el } from "./dom.js";

const CALM_MS = 4000; // a screen reader is told of progress no more often
let last = 0;

/** Tell screen readers, politely. */
export function say(text) {
  const line = $("say");
  line.textContent = line.textContent === text ? `${text}\u00a0` : text;
  last = performance.now();
}

/** Tell screen readers how far a draw is, unless they were told something a moment ago. */
export function sayProgress(text) {
  if (performance.now() - last > CALM_MS) say(text);
}

/** Show a line under the picture. */
export function status(text, bad = false) {
  const line = $("status");
  line.replaceChildren(...[text].flat());
  line.classList.toggle("bad", bad);
}

/** Show a toast for a while; `action` is {text, run}. Return what takes it away. */
export function toast(text, { bad = false, action = null, stays = bad ? 9000 : 6000 } = {}) {
  const box = el("div", { class: bad ? "toast bad" : "toast" }, el("span", { text }));
  const away = () => { clearTimeout(timer); box.remove(); };
  let timer = setTimeout(away, stays);
  const hold = () => clearTimeout(timer), go = () => { clearTimeout(timer); timer = setTimeout(away, 3000); };
  box.addEventListener("pointerenter", hold);
  box.addEventListener("pointerleave", go);
  box.addEventListener("focusin", hold);
  box.addEventListener("focusout", go);
  if (action) box.append(el("button", { type: "button", text: action.text, onclick: () => { away(); action.run(); } }));
  while ($("toasts").childElementCount > 2) $("toasts").firstElementChild.remove();
  $("toasts").append(box);
  return away;
}

/** Show a card over the picture, or take it away with null: {title, text, action: {text, run}, over}. */
export function notice(about) {
  const box = $("notice");
  box.hidden = !about;
  if (!about) return;
  box.toggleAttribute("data-over", Boolean(about.over));
  box.querySelector("h2").textContent = about.title;
  box.querySelector("p").textContent = about.text;
  const button = box.querySelector("button");
  button.hidden = !about.action;
  button.className = "button";
  button.textContent = about.action?.text ?? "";
  button.onclick = about.action?.run ?? null;
}
