"""Record a short film of the studio, for the documentation: ``python bench/studio/film.py``.

Somebody draws a landscape, paints over a part of it, has it drawn anew, and lets the picture go on to the right. It
comes into ``docs/studio/film.webp``. It needs Chromium, and the packages of extra ``dev``.
"""

from __future__ import annotations

import io
import time
from typing import Any

from pages import DOCS, ask, chromium, idle, poll, ready, studio
from PIL import Image, ImageDraw

SIZE = (1120, 700)
SHOWN = (960, 600)
SEED = 9
QUALITY = 62
LEAST_MS, STILL_MS = 60, 1400


class Film:
    """Frames with their durations in milliseconds, and where the pointer is."""

    def __init__(self, page: Any) -> None:
        self.page, self.frames, self.durations, self.pointer = page, list[Image.Image](), list[int](), (560.0, 620.0)

    def shoot(self, milliseconds: int) -> None:
        """Take a frame that is shown for so long."""
        picture = Image.open(io.BytesIO(self.page.screenshot(scale="css"))).convert("RGB")
        x, y = self.pointer
        arrow = [(0, 0), (0, 17), (4, 13.5), (7, 20), (10, 18.7), (7.2, 12.4), (12.5, 12.4)]
        ImageDraw.Draw(picture).polygon([(x + dx, y + dy) for dx, dy in arrow], fill="white", outline="black", width=1)
        small = picture.resize(SHOWN, Image.Resampling.LANCZOS)
        if self.frames and small.tobytes() == self.frames[-1].tobytes():
            self.durations[-1] += milliseconds
            return
        self.frames.append(small)
        self.durations.append(milliseconds)

    def move(self, x: float, y: float, steps: int = 7, each: int = 45) -> None:
        """Move the pointer, slower at both ends."""
        begin = self.pointer
        for step in range(1, steps + 1):
            share = step / steps
            share = share * share * (3 - 2 * share)
            self.pointer = (begin[0] + share * (x - begin[0]), begin[1] + share * (y - begin[1]))
            self.page.mouse.move(*self.pointer)
            self.shoot(each)

    def click(self, selector: str) -> None:
        box = self.page.locator(selector).first.bounding_box()
        self.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        self.page.mouse.down()
        self.page.mouse.up()
        self.shoot(200)

    def draw(self) -> None:
        """Press the button, and record as fast as frames can be taken until the draw has ended."""
        self.click("#go")
        last = time.perf_counter()
        while self.page.evaluate("!document.getElementById('stop').hidden"):
            self.shoot(0)
            now = time.perf_counter()
            self.durations[-1] = max(self.durations[-1], LEAST_MS, round(1000 * (now - last)))
            last = now
        idle(self.page)
        self.shoot(STILL_MS)

    def stroke(self, *points: tuple[float, float]) -> None:
        """Paint along points, as shares of the picture's sides."""
        box = self.page.locator("#picture").bounding_box()
        places = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in points]
        self.move(*places[0])
        self.page.mouse.down()
        for place in places[1:]:
            self.move(*place, steps=4, each=50)
        self.page.mouse.up()
        self.shoot(300)

    def save(self) -> None:
        DOCS.mkdir(exist_ok=True)
        first, *others = self.frames
        about = {"duration": self.durations, "loop": 0, "quality": QUALITY, "method": 4, "minimize_size": False}
        first.save(DOCS / "film.webp", save_all=True, append_images=others, **about)


def main() -> None:
    with studio() as (url, _), chromium() as browser:
        page = browser.new_page(viewport={"width": SIZE[0], "height": SIZE[1]}, color_scheme="light")
        page.goto(url)
        ready(page)
        page.evaluate("document.getElementById('folder').hidden = true")
        ask(page, "Critters", 123, 512)
        page.get_by_label("Steps", exact=True).first.fill("20")
        page.locator("#go").click()
        idle(page)
        film = Film(page)
        film.shoot(900)
        film.click("#controls label:has-text('Landscape')")
        page.get_by_label("Seed", exact=True).fill(str(SEED))
        film.draw()
        film.click("#modes label:has-text('Repaint')")
        film.stroke((0.44, 0.06), (0.78, 0.05), (0.76, 0.14), (0.46, 0.16), (0.5, 0.1), (0.72, 0.1))
        page.get_by_label("Seed", exact=True).fill("4")
        film.draw()
        film.click("#modes label:has-text('Extend')")
        film.click("#extend-right")
        film.click("#extend-right")
        film.shoot(500)
        page.get_by_label("Seed", exact=True).fill("2")
        film.draw()
        poll(page, "document.getElementById('stop').hidden")
        film.shoot(1600)
        film.save()


if __name__ == "__main__":
    main()
