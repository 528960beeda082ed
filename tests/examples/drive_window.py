"""Drives the example window.py on a real display, as its user would: drive_window.py EXAMPLES BUNDLE FOLDER.

Prints JSON: what was seen. It runs in a process of its own, since an X server that ends takes the process along.
"""

from __future__ import annotations

import json
import sys
import time
import tkinter as tk
from collections.abc import Callable, Iterator
from pathlib import Path
from tkinter import filedialog
from typing import Any

from PIL import ImageGrab

examples, bundle, folder = sys.argv[1], sys.argv[2], Path(sys.argv[3])
sys.path.insert(0, examples)
import window  # noqa: E402  # pyright: ignore[reportMissingImports]

root = tk.Tk()
own = window.Window(root, window.Painter(bundle))
filedialog.asksaveasfilename = lambda **_: str(folder / "saved.png")  # a person's answer
seen: dict[str, Any] = {"texts": []}
started = time.monotonic()
own.text.trace_add("write", lambda *_: seen["texts"].append(own.text.get()))


def may() -> list[bool]:
    """Whether Generate, Stop and Save can be pressed."""
    return [str(button["state"]) == "normal" for button in (own.generate, own.stop, own.save)]


def act() -> Iterator[Callable[[], object]]:
    """Do one thing after the other. What is yielded has to become true first."""
    seen["at first"] = may()
    yield lambda: own.generate.instate(["!disabled"])
    seen["loaded"], seen["labels"] = may(), list(own.labels["values"])
    own.seed.set("11")
    own.labels.set(seen["labels"][2])
    own.generate.invoke()
    seen["begun"] = may()
    yield lambda: own.result
    seen["drawn"] = may()
    own.save.invoke()
    root.update()
    x, y = own.picture.winfo_rootx(), own.picture.winfo_rooty()
    ImageGrab.grab((x, y, x + own.picture.winfo_width(), y + own.picture.winfo_height())).save(folder / "shown.png")
    ImageGrab.grab().save(folder / "screen.png")
    own.generate.invoke()
    own.stop.invoke()
    yield lambda: not own.stop.instate(["!disabled"])
    seen["stopped"], seen["told"] = may(), own.text.get()
    own.seed.set("many")
    own.generate.invoke()
    seen["wrong seed"] = own.text.get()
    own.seed.set("12")
    own.generate.invoke()
    own.close()  # in the middle of a draw


def go_on(actions: Iterator[Callable[[], object]], until: Callable[[], object]) -> None:
    """Go on once it is true, inside of Tk's own loop. Give up after a minute."""
    if time.monotonic() - started > 60:
        print(f"still waiting; the window says: {own.text.get()}", file=sys.stderr)
        own.close()
        return
    if until():
        following = next(actions, None)
        if following is None:
            return
        until = following
    root.after(10, go_on, actions, until)


go_on(act(), lambda: True)
root.mainloop()
print(json.dumps(seen))
