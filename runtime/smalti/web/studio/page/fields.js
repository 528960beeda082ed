// Fields of forms: a label, a control, and how its value is read and set.
import { clamp, el } from "./dom.js";

let next = 0;

/** A slider with a field beside its label. The field takes what is beyond the slider, too. */
export function slider({ name, label, hint, least, most, step, value, onchange = () => {} }) {
  const id = `field-${name}-${next++}`;
  const digits = Math.max(0, (String(step).split(".")[1] ?? "").length);
  const range = el("input", { type: "range", id: `${id}-range`, min: least, max: most, step, "aria-label": label });
  const field = el("input", { type: "number", id, class: "input short", step: "any", inputmode: "decimal", "aria-describedby": hint ? `${id}-hint` : undefined });
  const fill = () => range.style.setProperty("--at", `${(100 * (clamp(Number(range.value), least, most) - least)) / (most - least)}%`);
  let last = value;
  const set = (given) => { field.value = given ?? ""; range.value = given ?? least; last = given ?? last; fill(); };
  const get = () => { if (field.value === "") set(last); return last === null ? null : Number(field.value); }; // empty is what it was before
  range.addEventListener("input", () => { field.value = Number(Number(range.value).toFixed(digits)); fill(); onchange(); });
  field.addEventListener("input", () => { if (field.value !== "") last = range.value = field.value; fill(); onchange(); });
  field.addEventListener("change", get);
  set(value);
  const box = el("div", { class: "field" },
    el("div", { class: "head" }, el("label", { for: id, text: label }), field), range,
    hint ? el("p", { class: "hint", id: `${id}-hint`, text: hint }) : null);
  return { name, box, set, get };
}

/** A field for a number or for words; empty leaves the choice to the bundle. */
export function free({ name, label, hint, value, read = Number, placeholder = "Automatic" }) {
  const id = `field-${name}-${next++}`;
  const field = el("input", { type: "text", id, class: "input", placeholder, inputmode: read === Number ? "decimal" : undefined, "aria-describedby": hint ? `${id}-hint` : undefined });
  const set = (given) => { field.value = given === null || given === undefined ? "" : [given].flat().join(" "); };
  set(value);
  const box = el("div", { class: "field" }, el("label", { for: id, text: label }), field,
    hint ? el("p", { class: "hint", id: `${id}-hint`, text: hint }) : null);
  return { name, box, set, field, get: () => (field.value.trim() === "" ? null : read(field.value.trim())) };
}

/** A list to choose from. `choices` are [value, text]. */
export function choice({ name, label, hint, choices, value, onchange = () => {} }) {
  const id = `field-${name}-${next++}`;
  const select = el("select", { id, onchange, "aria-describedby": hint ? `${id}-hint` : undefined });
  const offer = (offered, chosen) => {
    select.replaceChildren(...offered.map(([one, text], index) => el("option", { value: index, text })));
    choices = offered;
    set(chosen);
  };
  const same = (one, other) => JSON.stringify(one) === JSON.stringify(other);
  const set = (given) => { select.value = Math.max(0, choices.findIndex(([one]) => same(one, given))); };
  const note = el("p", { class: "hint", id: `${id}-hint`, text: hint ?? "" });
  note.hidden = !hint;
  const box = el("div", { class: "field" }, el("label", { for: id, text: label }), el("span", { class: "select" }, select), note);
  offer(choices, value);
  return { name, box, set, offer, select, note, get: () => choices[Number(select.value)]?.[0] ?? null };
}

/** A few values side by side. `choices` are [value, text]. */
export function chips({ name, label, choices, value, even = false, onchange = () => {} }) {
  const group = `chips-${name}-${next++}`;
  const inputs = choices.map(([one, text], index) => {
    const input = el("input", { type: "radio", name: group, value: index, onchange });
    return { one, input, label: el("label", {}, input, el("span", { text })) };
  });
  const set = (given) => { (inputs.find(({ one }) => one === given) ?? inputs[0]).input.checked = true; };
  set(value);
  const box = el("fieldset", { class: "field" }, el("legend", { text: label }),
    el("div", { class: even ? "chips even" : "chips" }, ...inputs.map((one) => one.label)));
  return { name, box, set, get: () => inputs.find(({ input }) => input.checked)?.one ?? null };
}
