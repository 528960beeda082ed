// What is known of a picture and of the draw that made it.
import { $, el, icon, readable, seconds } from "./dom.js";

const STAGES = { network: "Network", draw: "Draw", decoder: "Decoder", host: "Host" };
const CALLS = { generate: "Drawn from nothing", inpaint: "Repainted", outpaint: "Painted on", vary: "Varied" };

/** Show everything: `picture`, the `timing` of the last draw, and the `bundle`. `act` has what buttons do. */
export function details({ picture, timing, bundle, act }) {
  $("details").replaceChildren(...[about(picture, act), times(timing), runsOn(bundle), model(bundle)].filter(Boolean));
}

function list(pairs) {
  return el("dl", {}, ...pairs.filter(([, value]) => value !== null && value !== undefined && value !== "")
    .flatMap(([name, value]) => [el("dt", { text: name }), el("dd", { text: value })]));
}

function about(picture, act) {
  if (!picture) return null;
  const { recipe } = picture, button = (name, text, run) => el("button", { type: "button", class: "button", id: `do-${name}`, onclick: run }, icon(name), el("span", { text }));
  const facts = list([
    ["Label", recipe ? (picture.label ? readable(picture.label) : "None") : null],
    ["Seed", picture.seed],
    ["Size", `${picture.width} × ${picture.height}${picture.reduced ? `, reduced from ${picture.reduced}` : ""}`],
    ["Steps", recipe?.options.steps],
    ["Made by", recipe ? CALLS[recipe.call] : "Opened from a file"],
    ["File", picture.name ?? picture.title],
  ]);
  const buttons = [button("download", "Download", act.download)];
  if (recipe && picture.name) buttons.push(button("replay", "Draw again", act.replay), button("settings", "Use settings", act.settings), button("trash", "Delete", act.remove));
  return el("section", {}, el("h2", { text: "This picture" }), facts, el("div", { class: "actions" }, ...buttons));
}

function times(timing) {
  if (!timing) return null;
  const total = Object.keys(STAGES).reduce((sum, stage) => sum + Math.max(0, timing.seconds[stage]), 0);
  const share = (stage) => Math.max(0, timing.seconds[stage]) / (total || 1);
  const bars = el("div", { class: "bars", "aria-hidden": "true" }, ...Object.keys(STAGES).map((stage) => {
    const bar = el("i", { "data-stage": stage });
    bar.style.flex = String(share(stage));
    return bar;
  }));
  const rows = Object.entries(STAGES).flatMap(([stage, name]) => [
    el("b", { "data-stage": stage, text: name }), el("span", { text: seconds(timing.seconds[stage]) }), el("span", { text: `${Math.round(100 * share(stage))} %` })]);
  const told = `${timing.pictures === 1 ? "one picture" : `${timing.pictures} pictures`}, ${timing.calls} network calls`;
  return el("section", { id: "times" }, el("h2", { text: "Time of the last draw" }),
    el("p", { class: "total" }, el("b", { text: seconds(total) }), el("span", { text: told })), bars, el("div", { class: "stages" }, ...rows));
}

function runsOn(bundle) {
  const provider = bundle?.provider;
  if (!provider) return null;
  const kinds = Object.entries(provider.precision), counted = new Map();
  for (const [name, kind] of kinds) counted.set(kind, [...(counted.get(kind) ?? []), name]);
  const common = [...counted].sort((one, other) => other[1].length - one[1].length);
  const told = common.map(([kind, names], index) => (index ? `${kind} for ${names.join(", ")}` : kind)).join("; ");
  return el("section", {}, el("h2", { text: "Runs on" }),
    list([["Provider", provider.actual], ["Device", provider.device], ["Precision", told], ["Library", provider.runtime], ["Threads", provider.threads]]),
    el("p", { class: "why", text: `Why: ${provider.why}.` }));
}

function model(bundle) {
  if (!bundle) return null;
  return el("section", {}, el("h2", { text: "Bundle" }),
    list([["Name", bundle.bundle], ["Family", readable(bundle.family)], ["Licence", bundle.licence], ["Data", bundle.data], ["Tokens", `${bundle.grid[1]} × ${bundle.grid[0]} of ${bundle.codes} codes`]]));
}
