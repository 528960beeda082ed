"""Tables and plots of the experiments on Hu et al. 2022."""

from __future__ import annotations

from typing import Any

from claims import plots, tables
from claims.common import Row
from claims.multinomial_sizes import MultinomialBench
from claims.plots import Plot
from claims.tables import FID, FID_STYLE, NEAR, PRDC, TRAININGS, Section, of

SCRIPT = "bench/papers/vqddm.py"


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
    """Share of the codes in use, distance and PSNR; a line of plots for each autoencoder, as their ranges differ."""
    import matplotlib.pyplot as plt

    figures = {"codes_used_percent": "codes used, %", "fid_style": FID_STYLE, "psnr_db": "PSNR, dB"}
    kinds = list(dict.fromkeys(row["setting"]["autoencoder"] for row in rows))
    figure, grid = plt.subplots(len(kinds), 3, figsize=(13, 2.4 * len(kinds)), sharey="row", squeeze=False)
    for kind, axes in zip(kinds, grid, strict=True):
        chosen = [row for row in rows if row["setting"]["autoencoder"] == kind]
        names = [" ".join(str(value) for value in row["setting"].values()) for row in chosen]
        for axis, (name, title) in zip(axes, figures.items(), strict=True):
            axis.plot([row[name] for row in chosen], names, "o")
            axis.set_title(title, fontsize=9)
            axis.tick_params(labelsize=8)
            axis.grid(alpha=0.3)
        axes[0].set_xlim(0, 105)
        axes[0].invert_yaxis()  # and so those that share it
    plt.close(figure)
    return figure


PLOTS: dict[str, Plot] = {"refit": refits, "steps": plots.steps}


def report(bench: MultinomialBench) -> None:
    """Write ``tables.md`` and the plots."""
    for path in (*plots.draw_all(bench, PLOTS), tables.report(bench, SECTIONS, SCRIPT)):
        print(path)
