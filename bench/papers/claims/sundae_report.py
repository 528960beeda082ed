"""Tables and plots of the experiments on McKinney and Willcocks 2022."""

from __future__ import annotations

from typing import Any

from claims import plots, tables
from claims.common import Row
from claims.plots import Plot, axes_of
from claims.sundae_sizes import SundaeBench
from claims.tables import FID, FID_STYLE, NEAR, PRDC, TRAININGS, Section, at, of

SCRIPT = "bench/papers/sundae.py"


SECTIONS: list[Section] = [
    (
        "fashion",
        "Fashion-MNIST pixel by pixel, class by class: do samples show their label? (section 4.2)",
        [
            of("sampler", "sampler"),
            of("steps", "steps"),
            of("samples", "samples"),
            ("label agreement", lambda row: f"{100 * row['label_agreement']:.1f} %"),
            ("of real pictures", lambda row: f"{100 * row['of_real_pictures']:.1f} %"),
            ("least agreed label", lambda row: _least(row["by_label"])),
            of("seconds per image", "seconds_per_image", 2),
        ],
        ("fashion.webp",),
    ),
    (
        "resampling",
        "2x2 patches against four in a row, positions along both axes against raster order (section 3.2)",
        [
            of("variant", "variant"),
            at("bits per token, unrolled, at a quarter of the steps", 1),
            at("half", 2),
            at("three quarters", 3),
            of("all steps", "bits_per_token", 3),
        ],
        ("resampling.svg",),
    ),
    (
        "unrolls",
        "Two unrolls against three (section 3.4)",
        [
            of("unrolls", "variant"),
            of("bits per token, unrolled twice", "bits_per_token", 3),
            FID,
            NEAR,
            *PRDC,
            of("minutes of training", "training_minutes", 1),
        ],
        ("unrolls.svg",),
    ),
    (
        "temperature",
        "Annealed against constant temperature (section 3.5)",
        [of("first step", "first"), of("last step", "last"), of("steps", "steps"), FID, NEAR, *PRDC],
        ("temperature.webp",),
    ),
    (
        "steps",
        "Quality by steps",
        [
            of("steps", "steps"),
            FID,
            NEAR,
            of("KID-style", "kid_style", 4),
            *PRDC,
            of("seconds per image", "seconds_per_image", 3),
        ],
        ("steps.svg", "steps.webp"),
    ),
    (
        "versus",
        "SUNDAE against absorbing diffusion at equal calls",
        [
            of("family, temperature", "family"),
            of("calls", "steps"),
            FID,
            NEAR,
            *PRDC,
            of("seconds per image", "seconds_per_image", 3),
        ],
        ("versus.svg", "versus.webp"),
    ),
    (
        "freezing",
        "What freezing saves in a batch (frozen after 10 steps / not at all)",
        [
            of("batch", "batch"),
            of("steps", "steps"),
            of("last temperature", "last"),
            *(
                (title, lambda row, name=name, digits=digits: _pair(row, name, digits))
                for title, name, digits in (
                    ("seconds", "drawing_seconds", 2),
                    ("calls", "calls", 0),
                    ("grids through the network", "network_grids", 0),
                    ("rows of logits", "network_rows", 0),
                )
            ),
            ("tokens that are equal", lambda row: f"{100 * row['tokens_equal']:.1f} %"),
        ],
        ("freezing.svg",),
    ),
    (
        "inpainting",
        "Inpainting under any mask (section 3.6)",
        [
            of("pictures", "pictures"),
            ("masks", lambda row: ", ".join(row["masks"])),
            of("images", "images"),
            of("kept pixels unchanged", "kept_exactly"),
            of("seconds per image", "seconds_per_image", 2),
        ],
        ("inpainting-avatars.webp", "inpainting-fashion.webp"),
    ),
    TRAININGS,
]


def _least(by_label: dict[str, float]) -> str:
    name = min(by_label, key=lambda name: by_label[name])
    return f"{name} ({100 * by_label[name]:.0f} %)"


def _pair(row: Row, name: str, digits: int) -> str:
    return f"{row['frozen'][name]:.{digits}f} / {row['all'][name]:.{digits}f}"


def versus(rows: list[Row]) -> Any:
    """Distance to reconstructions by calls, a line for each family; dotted: that of other images' reconstructions."""
    figure, (axis,) = axes_of(1, f"{FID_STYLE} to reconstructions")
    for family in dict.fromkeys(row["setting"]["family"] for row in rows):
        own = [row for row in rows if row["setting"]["family"] == family]
        points = sorted((row["setting"]["steps"], row["fid_style_reconstructed"]) for row in own)
        axis.plot(*zip(*points), marker="o", label=family)
    axis.axhline(rows[0]["fid_style_reconstructed_real"], color="grey", linestyle=":", label="other reconstructions")
    axis.set_xlabel("calls of the network")
    axis.set_ylim(bottom=0)
    axis.legend(fontsize=8)
    return figure


def frozen(rows: list[Row]) -> Any:
    """Grids that are not frozen yet, by step."""
    figure, (axis,) = axes_of(1, "samples still being drawn")
    for row in rows:
        points = row["curve"]
        axis.plot(
            range(1, len(points) + 1), points, label=f"{row['setting']['steps']} steps, 1 to {row['setting']['last']}"
        )
    axis.set_xlabel("step")
    axis.set_ylim(bottom=0)
    axis.legend(fontsize=8)
    return figure


PLOTS: dict[str, Plot] = {
    "resampling": plots.curves,
    "unrolls": plots.curves,
    "steps": plots.steps,
    "versus": versus,
    "freezing": frozen,
}


def report(bench: SundaeBench) -> None:
    """Write ``tables.md`` and the plots."""
    for path in (*plots.draw_all(bench, PLOTS), tables.report(bench, SECTIONS, SCRIPT)):
        print(path)
