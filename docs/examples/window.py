"""A desktop window that draws pictures: label and seed, previews while it draws, stop, and save with the recipe.

python docs/examples/window.py [BUNDLE]
"""

from __future__ import annotations

import sys
import threading
import tkinter as tk
from collections.abc import Callable
from dataclasses import dataclass
from queue import SimpleQueue
from tkinter import filedialog, ttk

from PIL import Image, ImageTk

import smalti

ANY = "(any)"


@dataclass(frozen=True)
class News:
    """What the painter tells."""

    text: str
    share: float = 0
    picture: Image.Image | None = None
    result: smalti.Result | None = None
    busy: bool = False


class Painter:
    """Loads and draws in threads, so that the window answers meanwhile. They tell it by a queue, and never touch Tk."""

    def __init__(self, bundle: str | None) -> None:
        self.news: SimpleQueue[News] = SimpleQueue()
        self.gen: smalti.Generator | None = None
        self.cancel = threading.Event()
        self._begin(lambda: self._load(bundle))

    def draw(self, seed: int, label: str | None) -> None:
        """Begin a picture. There is a new event each time: what was stopped stays stopped."""
        gen, cancel = self.gen, threading.Event()
        if gen:
            self.cancel = cancel
            self._begin(lambda: self._draw(gen, seed, label, cancel))

    def _begin(self, work: Callable[[], None]) -> None:
        def told() -> None:
            try:
                work()
            except smalti.SmaltiError as error:  # its message says what is wrong and what is allowed
                self.news.put(News(str(error)))

        threading.Thread(target=told).start()  # no daemon: the process ends after the draw has

    def _load(self, bundle: str | None) -> None:
        self.gen = smalti.load(bundle)
        self.news.put(News(f"{self.gen.manifest.name} on {self.gen.report.actual}"))

    def _draw(self, gen: smalti.Generator, seed: int, label: str | None, cancel: threading.Event) -> None:
        for step in gen.stream(seed=seed, label=label, cancel=cancel):
            share = (step.index + 1) / step.total
            self.news.put(News(f"Step {step.index + 1} of {step.total}", share, step.preview()[0], busy=True))
        result = step.result()
        self.news.put(News(f"Seed {seed}: {result.timings.total:.2f} s", 1, result.images[0], result))


class Window:
    """The widgets. All of this runs in the main thread, since Tk may be touched by no other."""

    def __init__(self, root: tk.Tk, painter: Painter) -> None:
        self.root, self.painter, self.result = root, painter, None
        self.seed, self.label = tk.StringVar(root, "7"), tk.StringVar(root, ANY)
        self.text, self.share = tk.StringVar(root), tk.DoubleVar(root)
        root.title("smalti")
        root.protocol("WM_DELETE_WINDOW", self.close)
        row = ttk.Frame(root)
        self.labels = ttk.Combobox(row, textvariable=self.label, state="readonly", width=14)
        seed = ttk.Entry(row, textvariable=self.seed, width=12)
        self.generate = ttk.Button(row, text="Generate", command=self._generate)
        self.stop = ttk.Button(row, text="Stop", command=lambda: painter.cancel.set())
        self.save = ttk.Button(row, text="Save", command=self._save)
        for one in (self.labels, seed, self.generate, self.stop, self.save):
            one.pack(side="left", padx=3, pady=6)
        self.picture = ttk.Label(root, anchor="center")
        bar, text = ttk.Progressbar(root, variable=self.share, maximum=1), ttk.Label(root, textvariable=self.text)
        for one in (row, self.picture, bar, text):
            one.pack(fill="x")
        self._tell(News("Loading", picture=Image.new("RGB", (256, 256), "white"), busy=True))
        self._look()

    def close(self) -> None:
        """Give up what is being drawn, and close the window."""
        self.painter.cancel.set()
        self.root.destroy()

    def _look(self) -> None:
        while not self.painter.news.empty():
            self._tell(self.painter.news.get())
        self.root.after(30, self._look)  # milliseconds

    def _tell(self, news: News) -> None:
        self.text.set(news.text)
        self.share.set(news.share)
        self.result, gen = news.result, self.painter.gen
        self.labels["values"] = [ANY, *(gen.labels if gen else ())]
        if news.picture:
            self.shown = ImageTk.PhotoImage(news.picture, master=self.root)  # Tk loses a picture that nobody holds
            self.picture.configure(image=self.shown)
        may = {self.generate: gen and not news.busy, self.stop: gen and news.busy, self.save: news.result}
        for button, now in may.items():
            button.configure(state="normal" if now else "disabled")

    def _generate(self) -> None:
        if not self.seed.get().isdecimal():
            return self._tell(News(f"Seed {self.seed.get()!r}: a whole number from 0 on is needed"))
        self._tell(News("Begins", busy=True))
        self.painter.draw(int(self.seed.get()), None if self.label.get() == ANY else self.label.get())

    def _save(self) -> None:
        path = filedialog.asksaveasfilename(parent=self.root, defaultextension=".png")
        if path and self.result:
            try:
                self.result.save(path)  # with the recipe, from which smalti.replay draws it again
                self.text.set(f"Saved {path}")
            except smalti.SmaltiError as error:
                self.text.set(str(error))


def main() -> None:
    """Open the window."""
    root = tk.Tk()
    Window(root, Painter(sys.argv[1] if len(sys.argv) > 1 else None))
    root.mainloop()


if __name__ == "__main__":
    main()
