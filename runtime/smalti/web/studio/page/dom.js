// Small helpers for elements. Nothing here knows what the studio does.
const SVG = "http://www.w3.org/2000/svg";

/** Return the element of an id. */
export const $ = (id) => document.getElementById(id);

/** Make an element: properties of `about` are set as attributes, or as listeners where they begin with "on". */
export function el(name, about = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(about)) {
    if (value === undefined || value === null || value === false) continue;
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (key === "text") made.textContent = value;
    else if (key === "class") made.className = value;
    else made.setAttribute(key, value === true ? "" : value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

/** Return an icon of the sprite. */
export function icon(name) {
  const svg = document.createElementNS(SVG, "svg"), use = document.createElementNS(SVG, "use");
  svg.setAttribute("aria-hidden", "true");
  use.setAttribute("href", `/studio/page/icons.svg#${name}`);
  svg.append(use);
  return svg;
}

/** Put another icon in place of an element's own. */
export function setIcon(element, name) {
  element.querySelector("use").setAttribute("href", `/studio/page/icons.svg#${name}`);
}

/** Make a button that shows an icon alone; its name is for screen readers, and shown when the pointer rests on it. */
export function iconButton(name, label, onclick, about = {}) {
  return el("button", { type: "button", class: "icon", title: about.key ? `${label} (${about.key})` : label, onclick, ...about, key: undefined },
    icon(name), el("span", { class: "unseen", text: label }));
}

/** Return a name of the model's as people read it: "open-peeps" becomes "Open peeps". */
export function readable(name) {
  const plain = name.replaceAll(/[-_]+/g, " ");
  return plain.charAt(0).toUpperCase() + plain.slice(1);
}

/** Return seconds as people read them. */
export function seconds(value) {
  if (value < 0.9995) return `${Math.round(value * 1000)} ms`;
  return value < 60 ? `${value.toFixed(value < 10 ? 2 : 1)} s` : `${Math.floor(value / 60)} min ${Math.round(value % 60)} s`;
}

export const clamp = (value, least, most) => Math.min(most, Math.max(least, value));
