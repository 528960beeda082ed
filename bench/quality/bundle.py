"""Quality of a bundle's samples by settings: ``python bench/quality/bundle.py BUNDLE -o FOLDER``.

Adds to what FOLDER already has.
Each setting draws the same seeds and labels; distances are to the same unseen images. FID-style figures of few samples
are biased upwards, all by the same number of samples, so they compare with each other and not with a full evaluation.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from smalti_train.evaluation.evaluate import draw, per_label
from smalti_train.evaluation.features import open_features
from smalti_train.evaluation.metrics import frechet_distance, kernel_distance, prdc
from smalti_train.evaluation.subject import data_of, open_subject

BASE: dict[str, Any] = {
    "steps": 24,
    "temperature": 0.9,
    "guidance": 1.0,
    "schedule": "cosine",
    "order": "halton",
    "remask": 0.0,
}
SWEEPS: dict[str, list[dict[str, Any]]] = {
    "steps": [
        {"steps": steps, "schedule": schedule, "order": order}
        for schedule, order, counts in (
            ("cosine", "halton", (4, 8, 16, 24, 32, 64, 128)),
            ("exact", "random", (4, 16, 64)),
        )
        for steps in counts
    ],
    "temperature": [{"temperature": value} for value in (0.7, 0.8, 0.9, 1.0)],
    "guidance": [{"guidance": value} for value in (1.0, 1.5, 2.0)],
    "choice": [{"order": "confidence"}, {"top_p": 0.9}, {"remask": 0.5}, {"order": "confidence", "temperature": 1.0}],
}
"""What each sweep changes of ``BASE``; "choice" is a table without a plot."""
PLOTTED = ("steps", "temperature", "guidance")


def settings(sweep: str, base: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Every setting of a sweep, in full."""
    for change in SWEEPS[sweep]:
        yield {**base, **change}


def main() -> None:
    """Draw, measure, and write ``quality.json`` after every setting and the plots at the end."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle")
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--sweeps", nargs="+", choices=list(SWEEPS), default=list(SWEEPS))
    parser.add_argument("--per-label", type=int, default=50)
    for name, value in BASE.items():
        parser.add_argument(f"--{name}", type=type(value), default=value)
    options = parser.parse_args()
    base = {name: getattr(options, name) for name in BASE}
    options.output.mkdir(parents=True, exist_ok=True)
    path: Path = options.output / "quality.json"
    done: list[dict[str, Any]] = json.loads(path.read_text()) if path.exists() else []

    network = open_features()
    subject = open_subject(options.bundle)
    test = data_of("avatars", subject.size, 4000, None)
    chosen = per_label(test, 250)
    real, labels = network(test.images[chosen]), test.labels[chosen]
    for sweep in options.sweeps:
        for setting in settings(sweep, base):
            key = {**setting, "per_label": options.per_label}
            if any(row["setting"] == key for row in done):
                continue
            started = time.perf_counter()
            drawn = draw(open_subject(options.bundle, **setting), test, options.per_label, 0)
            seconds = (time.perf_counter() - started) / len(drawn.seeds)
            features = network(drawn.images)
            coverage = [prdc(real[labels == i], features[drawn.labels == i]) for i in range(len(test.label_names))]
            row = {
                "setting": key,
                "fid_style": frechet_distance(real, features),
                "kid_style": kernel_distance(real, features),
                "precision": float(np.mean([part.precision for part in coverage])),
                "coverage": float(np.mean([part.coverage for part in coverage])),
                "seconds_per_image": seconds,
            }
            done.append(row)
            path.write_text(json.dumps(done, indent=1) + "\n")
            print(json.dumps(row), flush=True)
    plot(done, base | {"per_label": options.per_label}, options.output)


def plot(rows: list[dict[str, Any]], base: dict[str, Any], folder: Path) -> None:
    """One picture per sweep: FID-style and precision against the setting."""
    import matplotlib.pyplot as plt

    rows = [row for row in rows if row["setting"].keys() == base.keys()]
    for sweep in PLOTTED:
        figure, axes = plt.subplots(1, 2, figsize=(9, 3.4))
        for schedule, order in sorted({(row["setting"]["schedule"], row["setting"]["order"]) for row in rows}):
            fixed = {**base, "schedule": schedule, "order": order}
            same = [row for row in rows if all(row["setting"][key] == fixed[key] for key in fixed if key != sweep)]
            same.sort(key=lambda row: row["setting"][sweep])
            if len(same) < 2:
                continue
            for axis, figure_name in zip(axes, ("fid_style", "precision"), strict=True):
                axis.plot(
                    [row["setting"][sweep] for row in same],
                    [row[figure_name] for row in same],
                    marker="o",
                    label=f"{schedule}, {order}",
                )
        for axis, title in zip(axes, ("FID-style (EffNet-Lite0)", "precision, mean over styles"), strict=True):
            axis.set_xlabel(sweep)
            axis.set_title(title, fontsize=10)
            axis.grid(alpha=0.3)
            if sweep == "steps":
                axis.set_xscale("log", base=2)
                ticks = [4, 8, 16, 32, 64, 128]
                axis.set_xticks(ticks, [str(tick) for tick in ticks])
        axes[0].legend(fontsize=8)
        figure.tight_layout()
        figure.savefig(folder / f"{sweep}.svg")
        plt.close(figure)


if __name__ == "__main__":
    main()
