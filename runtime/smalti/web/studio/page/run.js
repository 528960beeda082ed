// One draw at a time: it is asked for, its frames come, and it ends.
import { opened } from "./picture.js";

const AGAIN = new Set([429, 503]); // what is asked once more, when the server says when

/**
 * Draws of this tab. `told` has what is called: begun(run), waits(run, seconds), recipe(recipe), step(run, bitmaps),
 * done(run, pictures, header), stopped(run), failed(run, header).
 */
export class Runs {
  constructor(link, told) {
    this.link = link;
    this.told = told;
    this.now = null;
    this.last = 0;
  }

  /** Ask for a draw. `about` is kept with it: the size that is expected, and so on. Return whether it was sent. */
  start(header, files, about) {
    const run = { ...about, header, files, id: ++this.last, index: 0, total: 0, begun: performance.now(), frames: 0 };
    this.#end();
    this.now = run;
    performance.clearMarks("smalti-preview");
    if (this.link.send({ ...header, id: run.id }, files)) return true;
    this.now = null;
    return false;
  }

  /** Stop the draw, if there is one. */
  stop() {
    const run = this.now;
    if (!run) return;
    this.link.send({ do: "stop", id: run.id });
    this.#end();
    this.told.stopped(run);
  }

  /** The connection is lost, and the draw with it. */
  lost() {
    const run = this.now;
    if (!run) return;
    this.#end();
    this.told.failed(run, { code: "lost", message: "The connection was lost during the draw." });
  }

  /** Take a frame of the server. */
  async frame(header, files) {
    const run = this.now;
    if (header.id !== run?.id) {
      if (header.id === 0 && run && header.is === "failed") this.#fail(run, header);
      return;
    }
    if (header.is === "waits" && header.recipe) this.told.recipe(run, header.recipe);
    else if (header.is === "begun") this.told.begun(run);
    else if (header.is === "step") await this.#step(run, header, files);
    else if (header.is === "done") await this.#done(run, header, files);
    else if (header.is === "failed") this.#fail(run, header);
    else if (header.is === "stopped") { this.#end(); this.told.stopped(run); }
  }

  async #step(run, header, files) {
    run.index = header.index + 1;
    run.total = header.total;
    performance.mark("smalti-preview");
    if (run.drawing) return; // this one comes too late to be seen
    run.drawing = true;
    try {
      const bitmaps = await Promise.all(files.map((bytes) => createImageBitmap(new Blob([bytes], { type: "image/jpeg" }))));
      if (this.now !== run || run.ended) return;
      run.frames += 1;
      this.told.step(run, bitmaps);
    } finally { run.drawing = false; }
  }

  async #done(run, header, files) {
    run.ended = true;
    const pictures = await Promise.all(header.pictures.map((about, index) => opened(new Blob([files[index]], { type: "image/png" }), about)));
    if (this.now !== run) return;
    this.now = null;
    this.told.done(run, pictures, header);
  }

  #fail(run, header) {
    if (AGAIN.has(header.status) && header.retry_after && header.code !== "timeout") {
      this.told.waits(run, header);
      run.timer = setTimeout(() => { if (this.now === run) this.link.send({ ...run.header, id: run.id }, run.files); }, header.retry_after * 1000);
      return;
    }
    this.#end();
    this.told.failed(run, header);
  }

  #end() {
    clearTimeout(this.now?.timer);
    this.now = null;
  }
}
