"""Painting in the studio: the brush, what is repainted, what is painted on, all of it by keys, and for all readers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from helpers.studio_page import Studio, drawn, masked, needs_chromium, poll, stroke
from helpers.web_pictures import pixels

pytestmark = needs_chromium


@pytest.fixture
def page(page: Any) -> Any:
    """A tab that shows a picture of the bundle's own size."""
    if page.evaluate("document.getElementById('picture').width") != 256:
        page.keyboard.press("g")
        drawn(page)
    return page


def base_of(page: Any, here: Studio) -> Any:
    """The pixels of the picture that is shown."""
    name = page.evaluate("document.querySelector('#strip [aria-current=true]').dataset.name")
    return pixels((here.folder / name).read_bytes())


def test_the_brush_paints_also_from_and_past_the_edge(page: Any) -> None:
    page.get_by_label("Repaint", exact=True).check()
    stroke(page, (0.5, 0.5), (0.75, 0.5), (1.08, 0.5), (1.04, 0.7), (0.9, 0.7))
    left, top, right, bottom, count = masked(page)
    assert right == 256
    assert 100 < left < 128
    assert top > 100
    assert bottom < 220
    assert count > 2000
    stroke(page, (-0.06, 0.1), (0.1, 0.1))
    assert masked(page)[0] == 0


def test_erasing_undoing_inverting_and_clearing(page: Any) -> None:
    page.get_by_label("Repaint", exact=True).check()
    stroke(page, (0.2, 0.5), (0.8, 0.5))
    painted = masked(page)[4]
    page.get_by_role("button", name="Eraser").click()
    stroke(page, (0.5, 0.3), (0.5, 0.7))
    assert 0 < masked(page)[4] < painted
    page.keyboard.press("Control+z")
    assert masked(page)[4] == painted
    page.keyboard.press("Control+Shift+Z")
    assert masked(page)[4] < painted
    page.keyboard.press("Control+z")
    page.keyboard.press("i")
    assert abs(masked(page)[4] + painted - 256 * 256) < 800  # but for soft pixels at the edge
    page.get_by_role("button", name="Clear the mask").click()
    assert masked(page)[4] == 0
    page.keyboard.press("Control+z")
    assert masked(page)[4] > 0


def test_the_size_of_the_brush_is_that_of_its_stroke(page: Any) -> None:
    page.get_by_label("Repaint", exact=True).check()
    page.get_by_label("Size of the brush").fill("40")
    stroke(page, (0.3, 0.5), (0.7, 0.5))
    _, top, _, bottom, _ = masked(page)
    assert abs(bottom - top - 40) <= 1


def test_repainting_keeps_all_other_pixels_exactly_and_can_be_drawn_again(page: Any, here: Studio) -> None:
    before = base_of(page, here)
    page.get_by_label("Repaint", exact=True).check()
    stroke(page, (0.3, 0.3), (0.7, 0.6))
    mask = page.evaluate(
        """() => { const canvas = document.getElementById("mask"), { width, height } = canvas;
        const { data } = canvas.getContext("2d").getImageData(0, 0, width, height);
        return Array.from({ length: width * height }, (_, place) => data[4 * place + 3] > 127); }"""
    )
    page.locator("#go").click()
    (about,) = drawn(page)["pictures"]
    after, repainted = pixels((here.folder / about["name"]).read_bytes()), np.array(mask).reshape(256, 256)
    assert 0 < repainted.sum() < repainted.size
    assert np.array_equal(after[~repainted], before[~repainted])
    assert not np.array_equal(after[repainted], before[repainted])

    page.get_by_role("button", name="Draw again").click()  # the gallery kept what it was painted on
    (again,) = drawn(page)["pictures"]
    assert again["name"] == about["name"]
    page.keyboard.press("c")
    poll(page, "document.getElementById('compare').getAttribute('aria-pressed') === 'true'")
    assert masked(page)[4] == repainted.sum()


def test_a_result_is_painted_on_further(page: Any, here: Studio) -> None:
    page.get_by_label("Repaint", exact=True).check()
    stroke(page, (0.2, 0.2), (0.4, 0.2))
    page.keyboard.press("g")
    drawn(page)
    middle = base_of(page, here)
    stroke(page, (0.6, 0.8), (0.8, 0.8))
    assert masked(page)[1] > 128  # a new mask
    page.keyboard.press("g")
    drawn(page)
    after = base_of(page, here)
    assert np.array_equal(after[:128], middle[:128])
    assert not np.array_equal(after, middle)


def test_arrows_paint_on_beyond_the_edges(page: Any, here: Studio) -> None:
    before = base_of(page, here)
    page.get_by_label("Extend", exact=True).check()
    page.get_by_label("Each arrow").fill("2")
    page.locator("#extend-right").click()
    page.locator("#extend-right").click()
    page.locator("#extend-top").click()
    assert page.locator("#status").inner_text().split()[2:5:2] == ["320", "288"]
    page.get_by_role("button", name="Extend on", exact=False).last.focus()
    page.keyboard.press("Control+Enter")
    (about,) = drawn(page)["pictures"]
    after = pixels((here.folder / about["name"]).read_bytes())
    assert after.shape == (288, 320, 3)
    assert np.array_equal(after[32:, :256], before)


def test_variations_are_of_the_picture_that_is_shown(page: Any, here: Studio) -> None:
    page.get_by_label("Vary", exact=True).check()
    page.get_by_label("Pictures", exact=True).first.fill("2")
    page.keyboard.press("Control+Enter")
    made = drawn(page)["pictures"]
    assert [one["recipe"]["call"] for one in made] == ["vary", "vary"]


def test_keys_alone_draw_and_repaint_a_rectangle(page: Any, here: Studio) -> None:
    def tab_to(identity: str) -> None:
        for _ in range(60):
            if page.evaluate("document.activeElement.id") == identity:
                return
            page.keyboard.press("Tab")
        raise AssertionError(f"Tab never comes to {identity}")

    tab_to("seed")
    page.keyboard.press("Control+a")
    page.keyboard.type("5")
    tab_to("go")
    page.keyboard.press("Enter")
    drawn(page)
    before = base_of(page, here)
    page.keyboard.press("Escape")
    page.keyboard.press("2")
    page.keyboard.press("m")
    assert page.evaluate("document.activeElement.id") == "stage"
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Shift+ArrowDown")
    page.keyboard.press("Enter")
    assert masked(page) == [48, 64, 176, 208, 128 * 144]
    poll(page, "document.getElementById('say').textContent.includes('rectangle')")
    page.keyboard.press("Control+Enter")
    drawn(page)
    after = base_of(page, here)
    changed = np.argwhere((after != before).any(-1))
    assert len(changed)
    assert (changed.min(0) >= (64, 48)).all()
    assert (changed.max(0) < (208, 176)).all()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_serious_fault(page: Any, scheme: str) -> None:
    from axe_playwright_python.sync_playwright import Axe

    axe = Axe()

    def grave() -> list[Any]:
        found = axe.run(page).response["violations"]
        return [(one["id"], one["nodes"][0]["html"]) for one in found if one["impact"] in ("serious", "critical")]

    page.emulate_media(color_scheme=scheme)
    page.get_by_text("Sampling").click()
    for width, mode in ((1280, "Create"), (1280, "Repaint"), (390, "Extend"), (820, "Vary")):
        page.set_viewport_size({"width": width, "height": 800})
        page.get_by_label(mode, exact=True).check()
        assert not grave(), (width, mode)
    page.locator("#help").click()
    poll(page, "document.getElementById('keys').open")
    assert not grave()
