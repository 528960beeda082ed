// The studio: everything is put together here.
import { $, el, readable } from "./dom.js";
import { Controls } from "./controls.js";
import { Gallery } from "./gallery.js";
import { Keys } from "./keys.js";
import { opening } from "./opening.js";
import { opened } from "./picture.js";
import { Runs } from "./run.js";
import { shimmer } from "./stage.js";
import { ended, Studio } from "./studio.js";
import { notice, say, sayProgress, status, toast } from "./tell.js";
import { themes } from "./theme.js";
import { Link } from "./wire.js";

const STATES = { connecting: "Connecting", loading: "Making ready", ready: "Ready", lost: "Connection lost", ended: "Ended", foreign: "No access" };
let stopShimmer = shimmer($("picture"), 16, 16);
let first = true; // until the first picture is there

const controls = new Controls(() => studio.follow(), () => studio.mode());
const studio = new Studio(controls, {
  download: () => studio.download(),
  replay: () => replay(studio.shown.name),
  settings: () => use(studio.shown),
  remove: () => gallery.remove(studio.shown.name),
});
const gallery = new Gallery({ open: openEntry, deleted: (name, next) => { if (studio.shown?.name === name && next) openEntry(next); } });
const link = new Link(connection, (header, files) => runs.frame(header, files));
const runs = new Runs(link, { recipe, begun, waits, step, done, stopped, failed });

/** Draw what the panel asks for. */
async function draw() {
  if (link.state !== "ready" || runs.now) return;
  const wrong = controls.wrong();
  if (wrong) return toast(wrong, { bad: true });
  controls.settleSeed();
  const asked = await studio.asked();
  if (!asked) return;
  run(asked.header, asked.files, { size: asked.size, count: asked.header.count });
}

/** Draw a picture of the gallery again, or a file: the same pixels. */
function replay(name, file = null) {
  const header = name ? { do: "replay", name } : { do: "replay" };
  run(header, file ? [["source", file]] : [], { size: null, count: 1, file });
}

function run(header, files, about) {
  if (!runs.start(header, files, about)) return toast("There is no connection now; it is being looked for.", { bad: true });
  busy(true);
  status("Waiting for its turn");
  say("Drawing");
}

function busy(on) {
  const focused = document.activeElement === (on ? $("go") : $("stop"));
  $("go").hidden = on;
  $("stop").hidden = !on;
  if (focused) (on ? $("stop") : $("go")).focus();
  $("progress").toggleAttribute("data-on", on);
  $("progress").value = 0;
}

function begun() {
  status("Drawing");
}

function recipe(run, told) {
  run.recipe = told;
  run.count = told.seeds.length;
  if (told.options.size) run.size = told.options.size;
  controls.write(told);
}

function step(run, bitmaps) {
  stopShimmer();
  notice(null);
  $("progress").value = run.index / run.total;
  const text = `Step ${run.index} of ${run.total}`;
  status(text);
  sayProgress(text);
  const size = run.size ?? [bitmaps[0].width, bitmaps[0].height];
  $("mask").hidden = true;
  $("arrows").hidden = true;
  $("rectangle").hidden = true;
  if (bitmaps.length === 1) return studio.stage.preview(bitmaps[0], size);
  studio.stage.spread(bitmaps.length, size, () => {});
  studio.stage.fill(bitmaps, false);
}

async function done(run, pictures, header) {
  stopShimmer();
  notice(null);
  first = false;
  for (const picture of pictures) picture.resolution = picture.recipe.options.resolution;
  if (run.recipe?.image) await studio.restore(run.recipe);
  studio.result(pictures, header);
  busy(false);
  ended(pictures, header, run.begun);
  if (header.unkept) toast(`Not kept in the gallery: ${header.unkept}`, { bad: true });
  await gallery.refresh();
  gallery.mark(pictures[0].name);
}

function stopped() {
  busy(false);
  studio.follow(true);
  if (!studio.shown) empty();
  status("Stopped");
  say("Stopped");
}

function waits(run, header) {
  status(header.code === "queue_full" ? "All places are taken. It is asked again in a moment." : header.message);
  sayProgress("All places are taken; it is asked again in a moment");
}

function failed(run, header) {
  busy(false);
  studio.follow(true);
  if (!studio.shown) empty();
  if (header.code === "no_recipe" && run.file) return studio.openFile(run.file);
  if (header.code === "needs_input") {
    toast(`${header.message}.`, { bad: true, action: run.file ? { text: "Open to paint on", run: () => studio.openFile(run.file) } : null });
  } else if (header.code !== "lost") toast(header.message, { bad: true });
  say("Not drawn"); // why is told by the toast
  status(header.message, true);
}

function empty() {
  notice({ title: "No picture yet", text: "Draw one, or drop one of yours here." });
}

/** Open a picture of the gallery. */
async function openEntry(entry) {
  if (!entry) return;
  try {
    const answer = await fetch(`/studio/gallery/${encodeURIComponent(entry.name)}`);
    if (!answer.ok) throw new Error((await answer.json()).error.message);
    const { recipe: told } = entry;
    const picture = await opened(await answer.blob(), { name: entry.name, recipe: told, seed: told.seeds[0], label: told.labels[0], resolution: told.options.resolution });
    runs.stop();
    stopShimmer();
    notice(null);
    first = false;
    studio.open(picture);
    gallery.mark(entry.name);
  } catch (error) { toast(error.message, { bad: true }); }
}

/** Bring the settings of a picture back. */
async function use(picture) {
  if (!picture?.recipe) return;
  await studio.restore(picture.recipe);
  controls.write(picture.recipe);
  studio.follow(true);
  say("Its settings are in the panel");
}

/** Replay a file of smalti's; the server says where it is another program's, and then it is opened. */
function take(file) {
  if (link.state !== "ready") return toast("Wait until the studio is connected, then open it again.");
  if (runs.now) return toast("A draw is under way.", { action: { text: `Stop it, and open ${file.name || "the picture"}`, run: () => { runs.stop(); take(file); } } });
  if (!file.type || ["image/png", "image/jpeg", "image/webp"].includes(file.type)) replay(null, file);
  else studio.openFile(file);
}

/** Follow the connection. */
async function connection(state, capabilities) {
  $("link").dataset.state = state;
  $("link").querySelector("span").textContent = STATES[state];
  $("link").title = STATES[state];
  $("go").disabled = state !== "ready";
  if (state === "lost" || state === "ended" || state === "foreign") runs.lost();
  const over = Boolean(studio.shown), again = { text: "Try now", run: () => link.look() };
  if (state === "loading") {
    const [bundle] = capabilities.bundles;
    bundles(capabilities);
    gallery.refresh();
    notice({ title: `Making ${bundle.name} ready`, text: "Its networks are being loaded. This takes a few seconds." });
  } else if (state === "lost") notice({ title: "Connection lost", text: "The studio does not answer. This page goes on looking for it.", action: again, over });
  else if (state === "ended") notice({ title: "The studio has ended", text: `Start it again with “smalti studio”, and open the address that it prints. Your pictures are safe${$("folder").textContent ? ` in ${$("folder").textContent}` : ""}.`, action: again, over });
  else if (state === "foreign") notice({ title: "This page has no key", text: "Open the address that “smalti studio” printed in its terminal; it brings the key.", action: again, over });
  if (state !== "ready") return;
  notice(null);
  bundles(capabilities);
  const found = await gallery.refresh();
  if (!first) return studio.follow();
  first = false;
  if (!found || !gallery.entries.length) return draw();
  const [latest] = gallery.entries;
  await openEntry(latest);
  if (latest.recipe.call === "generate") controls.write(latest.recipe); // one goes on where one was
}

/** Offer the bundles, and build the panel of the one that is chosen. */
function bundles(capabilities) {
  const all = capabilities.bundles, chosen = all.find(({ name }) => name === controls.bundle?.name && name) ?? all.find(({ ready }) => ready) ?? all[0];
  $("bundle-select").hidden = all.length < 2;
  $("bundle-name").hidden = all.length > 1;
  $("bundle-name").textContent = chosen.name;
  $("bundle").replaceChildren(...all.map(({ name, ready }) => el("option", { value: name, text: ready ? readable(name) : `${readable(name)} (making ready)`, disabled: !ready })));
  $("bundle").value = chosen.name;
  $("bundle").onchange = () => { controls.build(all.find(({ name }) => name === $("bundle").value), capabilities.limits); studio.follow(true); };
  if (controls.bundle?.digest !== chosen.digest || controls.bundle?.name !== chosen.name) controls.build(chosen, capabilities.limits);
  else Object.assign(controls.bundle, chosen);
  studio.facts();
}

const next = themes(() => studio.painting.mask.refresh());
const inpaints = () => controls.mode === "inpaint", mode = (name) => () => { if (controls.bundle?.calls.includes(name)) { controls.setMode(name); studio.mode(); } };
const keys = new Keys([
  ["Everywhere", [
    ["Ctrl+Enter or G", "Generate", draw], ["Escape", "Stop", () => runs.stop(), () => runs.now], ["R", "Roll a new seed", () => controls.roll()], ["L", "Keep the seed, or not", () => controls.toggleLock()],
    ["1 or 2 or 3 or 4", "Create, repaint, extend, vary", null], ["1", "", mode("generate")], ["2", "", mode("inpaint")], ["3", "", mode("outpaint")], ["4", "", mode("vary")],
    ["O", "Open a picture", () => $("file").click()], ["S", "Download the picture", () => studio.download()], ["C", "Compare with the picture before", () => studio.compare.click(), () => !studio.compare.hidden],
    ["T", "Theme", () => next()], ["?", "This list", () => keys.open()]]],
  ["Repaint", [
    ["B", "Brush", () => studio.painting.choose("brush"), inpaints], ["E", "Eraser", () => studio.painting.choose("eraser"), inpaints], ["M", "Rectangle", () => { studio.painting.choose("rectangle"); $("stage").focus(); }, inpaints],
    ["[ or ]", "Smaller or larger brush", null], ["[", "", () => studio.painting.grow(0.85), inpaints], ["]", "", () => studio.painting.grow(1.18), inpaints],
    ["I", "Invert the mask", () => studio.painting.invert(), inpaints], ["Ctrl+Z", "Undo", () => studio.painting.undo(), inpaints], ["Ctrl+Shift+Z or Ctrl+Y", "Redo", () => studio.painting.redo(), inpaints], ["Delete or Backspace", "Clear the mask", () => studio.painting.clear(), inpaints]]],
  ["On the picture", [["Arrow keys", "Move the rectangle, or extend that side", null], ["Shift+Arrow keys", "Resize the rectangle, or extend less far", null], ["Enter", "Add the rectangle to the mask", null], ["Delete", "Take the rectangle out of the mask", null]]],
  ["In the gallery", [["Delete", "Delete the picture", null], ["← or →", "The picture before or after", null]]],
]);
$("stage").addEventListener("keydown", (event) => {
  if (event.target === $("stage") && !event.ctrlKey && !event.metaKey && (studio.painting.key(event) || studio.extending.key(event))) event.preventDefault();
});
$("panel").addEventListener("submit", (event) => { event.preventDefault(); draw(); });
$("stop").addEventListener("click", () => runs.stop());
$("open").addEventListener("click", () => $("file").click());
$("help").addEventListener("click", () => keys.open());
opening(take);
addEventListener("focus", () => { if (link.state === "ready" && !runs.now) gallery.refresh(); });
