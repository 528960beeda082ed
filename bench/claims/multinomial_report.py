"""Tables and plots of paper 004's rows."""

from __future__ import annotations

from typing import Any

from claims import plots, tables
from claims.common import Row
from claims.multinomial_sizes import MultinomialBench
from claims.plots import Plot, axes_of
from claims.tables import FID, FID_STYLE, NEAR, PRDC, TRAININGS, Section, of

SCRIPT = "bench/paper_004.py"


SECTIONS: list[Section] = [
    (
        "refit",
        "ReFiT on a codebook of which most codes are never used (table 1); reconstructions of unseen images",
        [
            of("autoencoder", "autoencoder"),
            of("codebook", "codebook"),
            of("codes", "codes"),
            of("decoder", "decoder"),
            of("codes used", "codes_used_percent", 1, " %"),
            of("perplexity of the codes", "code_perplexity", 0),
            of(FID_STYLE, "fid_style", 2),
            of("PSNR, dB", "psnr_db", 2),
            of("edge PSNR, dB", "edge_psnr_db", 2),
        ],
        ("refit.svg", "refit-vqgan.webp", "refit-edge.webp"),
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
            of("bound, bits per token", "bits_per_token", 3),
        ],
        ("steps.svg", "steps.webp"),
    ),
    (
        "completion",
        "Half of a picture from the other half, without a label (figure 8)",
        [
            of("given", "given"),
            of("family", "family"),
            of("PSNR of what was drawn, dB", "psnr_of_region_db", 2),
            of(f"{FID_STYLE} of what was drawn", "fid_style_of_region", 2),
            of(f"{FID_STYLE} of whole pictures", "fid_style", 2),
        ],
        ("completion-upper.webp", "completion-lower.webp"),
    ),
    (
        "costs",
        "Parameters, FLOPs and seconds (table 2)",
        [
            of("prior", "prior"),
            ("tokens", lambda row: "x".join(map(str, row["grid"]))),
            of("codes", "codes"),
            of("parameters, millions", "parameters_millions", 1),
            of("GFLOP per call", "gflop_per_call", 2),
            of("calls", "calls", 0),
            of("seconds per image", "seconds_per_image", 3),
        ],
        (),
    ),
    TRAININGS,
]


def refits(rows: list[Row]) -> Any:
    """Share of the codes in use, distance and PSNR of every codebook and decoder."""
    figure, axes = axes_of(3, "codes used, %", FID_STYLE, "PSNR, dB")
    names = [", ".join(map(str, row["setting"].values())) for row in rows]
    for axis, name in zip(axes, ("codes_used_percent", "fid_style", "psnr_db"), strict=True):
        axis.barh(names, [row[name] for row in rows])
        axis.invert_yaxis()
        axis.tick_params(labelsize=7)
    for axis in axes[1:]:
        axis.set_yticklabels([])
    return figure


PLOTS: dict[str, Plot] = {"refit": refits, "steps": plots.steps}


def report(bench: MultinomialBench) -> None:
    """Write ``tables.md`` and the plots."""
    for path in (*plots.draw_all(bench, PLOTS), tables.report(bench, SECTIONS, SCRIPT)):
        print(path)
