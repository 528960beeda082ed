// Pictures from outside: dropped on the page, pasted, or chosen.
import { $ } from "./dom.js";

/** Call `open(file)` with each picture that comes. */
export function opening(open) {
  const drop = $("drop");
  let depth = 0;
  const carries = (event) => [...(event.dataTransfer?.types ?? [])].includes("Files");
  addEventListener("dragenter", (event) => { if (carries(event)) { depth += 1; drop.hidden = false; } });
  addEventListener("dragleave", (event) => { if (carries(event) && --depth <= 0) { depth = 0; drop.hidden = true; } });
  addEventListener("dragover", (event) => { if (carries(event)) event.preventDefault(); });
  addEventListener("drop", (event) => {
    depth = 0;
    drop.hidden = true;
    if (!carries(event)) return;
    event.preventDefault();
    if (event.dataTransfer.files[0]) open(event.dataTransfer.files[0]);
  });
  addEventListener("paste", (event) => {
    const file = [...(event.clipboardData?.files ?? [])].find((one) => one.type.startsWith("image/"));
    if (file) { event.preventDefault(); open(file); }
  });
  $("file").addEventListener("change", () => {
    const [file] = $("file").files;
    if (file) open(file);
    $("file").value = "";
  });
}
