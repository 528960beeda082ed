// Light, dark, or as the system is.
import { $, setIcon } from "./dom.js";
import { read, write } from "./keys.js";

const NAMES = { auto: "as the system", light: "light", dark: "dark" };

/** Let the button go round the three; `onchange` is told. Return what goes one further. */
export function themes(onchange) {
  const names = Object.keys(NAMES), stored = read("smalti-theme");
  let name = stored in NAMES ? stored : "auto";
  const show = () => {
    if (name === "auto") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = name;
    setIcon($("theme"), name);
    $("theme").querySelector("span").textContent = `Theme: ${NAMES[name]}`;
    $("theme").title = `Theme: ${NAMES[name]} (T)`;
    onchange();
  };
  const next = () => { name = names[(names.indexOf(name) + 1) % names.length]; write("smalti-theme", name); show(); };
  $("theme").addEventListener("click", next);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", onchange);
  show();
  return next;
}
