"""Markdown of what was measured: each table beside the command that makes it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from claims.common import Bench, Row

Column = tuple[str, Callable[[Row], str]]
Section = tuple[str, str, list[Column], tuple[str, ...]]
"""The command, which is the name of its rows; a title; the columns; plots and sheets, of which those that are there."""
FID_STYLE = "FID-style (EffNet-Lite0)"


def report(bench: Bench, sections: Sequence[Section] | None = None, script: str = "bench/papers/unleashing.py") -> Path:
    """Write ``tables.md`` from the rows there are, by ``sections`` (``SECTIONS`` unless others are given)."""
    parts = [f"Figures of `{script} report`; what they say of the paper's claims is for a person to write."]
    for name, title, columns, pictures in SECTIONS if sections is None else sections:
        rows = bench.rows(name)
        if not rows:
            continue
        command = [] if name == "trainings" else [f"```sh\npython {script} {name}\n```"]
        shown = [f"![{name}]({bench.results.name}/{file})" for file in pictures if (bench.results / file).exists()]
        parts += [f"## {title}", *command, table(columns, rows), *shown]
    path = bench.results / "tables.md"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n\n".join(parts) + "\n")
    return path


def table(columns: list[Column], rows: list[Row]) -> str:
    """A table with a line for each row."""
    lines = [[title for title, _ in columns], ["---"] * len(columns)]
    lines += [[show(row) for _, show in columns] for row in rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def of(title: str, name: str, digits: int | None = None, unit: str = "") -> Column:
    """A column of a figure, or of a part of the setting, by name."""

    def show(row: Row) -> str:
        value: Any = row.get(name, row["setting"].get(name, ""))
        return f"{value:.{digits}f}{unit}" if digits is not None and value != "" else str(value)

    return title, show


def beside_real(title: str, name: str, real: str) -> Column:
    """A figure, and in brackets the same one for unseen real images in place of samples."""
    return title, lambda row: f"{row[name]:.2f} ({row[real]:.2f})"


def at(title: str, step: int) -> Column:
    """The bound at about a quarter of the way, and so on: the ``step``-th quarter of the curve."""
    return title, lambda row: f"{row['curve'][max(0, step * len(row['curve']) // 4 - 1)][1]:.3f}"


FID = beside_real(FID_STYLE, "fid_style", "fid_style_real_against_real")
NEAR = beside_real("to reconstructions", "fid_style_reconstructed", "fid_style_reconstructed_real")
PRDC = [beside_real(name, name, f"{name}_real") for name in ("precision", "recall", "density", "coverage")]
TRAININGS: Section = (
    "trainings",
    "Trainings (minutes of the last part alone where one was interrupted)",
    [of("run", "run"), of("steps", "steps"), ("minutes", lambda row: f"{row['seconds'] / 60:.1f}")],
    (),
)

SECTIONS: list[Section] = [
    (
        "figure5",
        "Figure 5: validation bound, bits per token, by objective",
        [
            of("objective", "objective"),
            of("seed", "seed"),
            at("quarter of the steps", 1),
            at("half", 2),
            at("three quarters", 3),
            of("all steps", "bits_per_dim", 3),
        ],
        ("figure5.svg",),
    ),
    (
        "table4",
        "Table 4: the same transformer, absorbing and autoregressive",
        [
            of("family", "family"),
            of("seed", "seed"),
            of("bits per token, unseen images (exact if autoregressive, else a bound)", "bits_per_token", 3),
            FID,
            NEAR,
            of("seconds per image", "seconds_per_image", 2),
        ],
        ("table4.svg", "table4.webp"),
    ),
    (
        "table3",
        "Table 3: fewer steps",
        [
            of("steps of 256 in the paper", "of_256"),
            of("steps here", "steps"),
            FID,
            NEAR,
            of("KID-style", "kid_style", 4),
            of("seconds per image", "seconds_per_image", 2),
        ],
        ("table3.svg", "table3.webp"),
    ),
    (
        "table1",
        "Table 1: temperature",
        [
            of("temperature", "temperature"),
            FID,
            NEAR,
            *PRDC,
        ],
        ("table1.svg", "table1.webp"),
    ),
    (
        "table5",
        "Table 5: DiffAugment and the clamp of lambda; reconstructions of unseen images",
        [
            of("variant", "variant"),
            of(FID_STYLE, "fid_style", 2),
            of("PSNR, dB", "psnr_db", 2),
            of("edge PSNR, dB", "edge_psnr_db", 2),
            of("codes used", "codes_used_percent", 1, " %"),
            of("perplexity of the codes", "code_perplexity", 0),
        ],
        ("table5.svg", "table5.webp"),
    ),
    (
        "figure4",
        "Figure 4: canvases larger than the training images, and inpainting",
        [
            of("picture", "picture"),
            of("steps", "steps"),
            of("stride", "stride"),
            of("seconds per image", "seconds_per_image", 2),
        ],
        ("figure4-128x64.webp", "figure4-192x64.webp", "figure4-128x128.webp", "inpainting.webp"),
    ),
    (
        "bits",
        "Bits per dimension of 5-bit images",
        [
            of("images", "images"),
            of("bits per token", "bits_per_token", 3),
            of("tokens' share, bits per dimension", "bits_per_dim_of_tokens", 3),
            of("pixels' share", "bits_per_dim_of_pixels", 3),
            of("bound, bits per dimension", "bits_per_dim", 3),
        ],
        (),
    ),
    TRAININGS,
]
