"""Plots of what was measured, as SVG. Needs matplotlib (the extra ``bench``)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from claims.common import Bench
from claims.tables import FID_STYLE

Plot = Callable[[list[dict[str, Any]]], Any]


def draw_all(bench: Bench, plots: dict[str, Plot] | None = None) -> list[Path]:
    """Draw every plot whose rows there are (``PLOTS`` unless others are given); equal rows give equal files."""
    try:
        import matplotlib
    except ImportError:
        raise SystemExit('plots need matplotlib: pip install -e ".[bench]"') from None
    matplotlib.use("Agg")
    matplotlib.rcParams |= {"svg.hashsalt": "unleashing", "svg.fonttype": "none"}
    drawn: list[Path] = []
    for name, plot in (PLOTS if plots is None else plots).items():
        if rows := bench.rows(name):
            path = bench.results / f"{name}.svg"
            figure = plot(rows)
            figure.tight_layout()
            figure.savefig(path, metadata={"Date": None})
            drawn.append(path)
    return drawn


def axes_of(columns: int, *titles: str) -> tuple[Any, Any]:
    """A figure of so many plots side by side, and the plots."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, columns, figsize=(4.5 * columns, 3.4), squeeze=False)
    for axis, title in zip(axes[0], titles, strict=True):
        axis.set_title(title, fontsize=10)
        axis.grid(alpha=0.3)
    plt.close(figure)
    return figure, axes[0]


def curves(rows: list[dict[str, Any]]) -> Any:
    """Bound on unseen images by training step; a colour for each objective, variant or family, a dash for each seed."""
    figure, (axis,) = axes_of(1, "unseen images, bits per token")
    kinds = list(dict.fromkeys(_kind(row) for row in rows))
    for row in rows:
        seed, points = row["setting"]["seed"], row["curve"]
        axis.plot(
            [step for step, _ in points],
            [value for _, value in points],
            color=f"C{kinds.index(_kind(row))}",
            linestyle=("-", "--", ":")[seed % 3],
            label=f"{_kind(row)}, seed {seed}",
        )
    # The first steps fall so far that they would hide all differences after them.
    later = [value for row in rows for _, value in row["curve"][len(row["curve"]) // 8 :]]
    axis.set_ylim(min(later) - 0.05, max(later) + 0.05)
    axis.set_xlabel("training step")
    axis.legend(fontsize=8)
    return figure


def _kind(row: dict[str, Any]) -> str:
    setting = row["setting"]
    return setting.get("objective") or setting.get("variant") or setting["family"]


def steps(rows: list[dict[str, Any]]) -> Any:
    """Distance and time by the number of sampling steps."""
    figure, axes = axes_of(2, FID_STYLE, "seconds per image")
    rows = sorted(rows, key=lambda row: row["setting"]["steps"])
    shown = {"fid_style": "to unseen images", "fid_style_reconstructed": "to reconstructions"}
    for name, label in shown.items():
        axes[0].plot([row["setting"]["steps"] for row in rows], [row[name] for row in rows], marker="o", label=label)
    axes[0].legend(fontsize=8)
    axes[1].plot([row["setting"]["steps"] for row in rows], [row["seconds_per_image"] for row in rows], marker="o")
    for axis in axes:
        axis.set_xlabel("sampling steps")
    return figure


def heat(rows: list[dict[str, Any]]) -> Any:
    """Distance to reconstructions, precision and its kin by temperature; dotted: those of other images."""
    names = ("precision", "recall", "density", "coverage")
    figure, axes = axes_of(2, f"{FID_STYLE} to reconstructions", "precision, recall, density, coverage (k = 3)")
    rows = sorted(rows, key=lambda row: row["setting"]["temperature"])
    heats = [row["setting"]["temperature"] for row in rows]
    axes[0].plot(heats, [row["fid_style_reconstructed"] for row in rows], marker="o")
    axes[0].axhline(rows[0]["fid_style_reconstructed_real"], color="C0", linestyle=":")
    for index, name in enumerate(names):
        axes[1].plot(heats, [row[name] for row in rows], marker="o", color=f"C{index}", label=name)
        axes[1].axhline(rows[0][f"{name}_real"], color=f"C{index}", linestyle=":")
    axes[1].legend(fontsize=8)
    for axis in axes:
        axis.set_xlabel("temperature")
    return figure


def judges(rows: list[dict[str, Any]]) -> Any:
    """What the discriminators of the variants have to pay, and how much they are heeded."""
    figure, axes = axes_of(2, "discriminator's loss", "lambda")
    for row in rows:
        for axis, name in zip(axes, ("discriminator", "lambda"), strict=True):
            if points := row[name]:
                axis.plot(*zip(*points), label=row["setting"]["variant"], linewidth=1)
    for axis in axes:
        axis.set_xlabel("training step")
    axes[0].legend(fontsize=8)
    axes[1].set_yscale("symlog", linthresh=1)
    return figure


PLOTS: dict[str, Plot] = {"figure5": curves, "table4": curves, "table3": steps, "table1": heat, "table5": judges}
"""Plots of the experiments on Bond-Taylor et al. 2021, by the names of their rows."""
