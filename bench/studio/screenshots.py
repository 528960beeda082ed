"""Take pictures of the studio at three widths, for the documentation: ``python bench/studio/screenshots.py``.

They come into ``docs/studio`` as ``desktop.webp`` (1440 pixels, light), ``tablet.webp`` (820, dark) and ``phone.webp``
(390, light). It needs Chromium, and the packages of extra ``dev``.
"""

from __future__ import annotations

import io
from typing import Any

from pages import DOCS, ask, chromium, idle, ready, studio
from PIL import Image

SHOTS = (
    ("desktop", 1440, 900, "light", ("Critters", 123)),
    ("tablet", 820, 1180, "dark", ("Planets", 118)),
    ("phone", 390, 844, "light", ("Sprouts", 119)),
)
"""Name, width, height, theme, and the picture that is shown."""
BEFORE = (("Lorelei", 110), ("Landscape", 6), ("Notionists", 115), ("Pixel art", 108), ("Open peeps", 107))
"""Pictures that are in the gallery by then."""
QUALITY = 88


def take(page: Any, name: str) -> None:
    picture = Image.open(io.BytesIO(page.screenshot(scale="css")))
    DOCS.mkdir(exist_ok=True)
    picture.convert("RGB").save(DOCS / f"{name}.webp", quality=QUALITY, method=6)


def main() -> None:
    with studio() as (url, _), chromium() as browser:
        page = browser.new_page(viewport={"width": 1440, "height": 900})
        page.goto(url)
        ready(page)
        page.get_by_role("button", name="Delete").click()  # the first one has a seed that nobody chose
        for label, seed in (*BEFORE, *(picture for *_, picture in SHOTS)):
            ask(page, label, seed)
            page.locator("#go").click()
            idle(page)
        page.close()
        for name, width, height, scheme, (label, seed) in SHOTS:
            page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
            page.goto(url)
            ready(page)
            ask(page, label, seed)
            page.locator("#go").click()
            idle(page)
            page.evaluate("scrollTo(0, 0)")
            page.evaluate("document.activeElement.blur()")
            page.mouse.move(width / 2, 25)
            page.wait_for_timeout(300)
            page.evaluate("document.getElementById('folder').textContent = '~/Pictures/smalti'")  # not this machine's
            take(page, name)
            page.close()


if __name__ == "__main__":
    main()
