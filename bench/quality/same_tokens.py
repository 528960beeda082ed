"""Do two commits draw the same? ``python bench/quality/same_tokens.py BEFORE [--seeds 64] [--work FOLDER]``.

The commit BEFORE is checked out beside this one, trains a tiny prior of every family and exports them; both commits
then draw from its bundles, and each from its own embedded one, with every order and option. Prints how many draws there
were and which differ, and ends with 1 where one does. Equal tokens are promised on one machine only: on another
processor the networks' sums may differ in their last digits.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parents[2]
ROOTS = ("runtime", "kernels", "training", "export")
PRESETS = {
    "tiny": "tiny",
    "tiny-autoregressive": "tiny",
    "tiny-sundae": "tiny",
    "tiny-multinomial": "tiny",
}
"""Presets of priors and of the autoencoder under each."""
COMMON: list[dict[str, Any]] = [{}, {"temperature": 0.7}, {"top_k": 9}, {"top_p": 0.8}, {"guidance": 2.0}]
OWN: dict[str, list[dict[str, Any]]] = {
    "absorbing": [
        {"steps": 5},
        *(
            {"steps": 7, "order": order, "schedule": counts}
            for order in ("random", "halton")
            for counts in ("exact", "cosine")
        ),
        {"schedule": "binomial", "order": "random", "remask": 0.0},
        {"order": "confidence", "remask": 0.0},
        {"order": "confidence", "remask": 0.0, "choice_temperature": 0.0},
        {"remask": 0.3},
        {"remask": "mlm"},
    ],
    "autoregressive": [],
    "sundae": [
        {"steps": 24, "proportion": 0.4},
        {"steps": 30, "proportion": (0.9, 0.2), "min_steps": 3},
        {"steps": 6, "final_temperature": 0.4},
    ],
    "multinomial": [{"steps": 1}, {"steps": 9}, {"steps": 100}],
}
CANVAS: list[dict[str, Any]] = [{"columns": 2, "steps": 4}, {"columns": 2, "steps": 4, "stride": 2}]
"""On twice the width; an autoregressive prior has none."""

CHILD = """
import hashlib, json, sys
import numpy as np
import smalti

asked = json.loads(sys.stdin.read())
answers = {}
for bundle in asked["bundles"]:
    gen = smalti.load(bundle or None, threads=2)
    family, latent = gen.manifest.family, gen.manifest.latent
    size = (latent.grid[1] * latent.factor, latent.grid[0] * latent.factor)
    cases = [*asked["common"], *asked["own"][family], *(asked["canvas"] if family != "autoregressive" else [])]
    for case in cases:
        options = {name: tuple(value) if isinstance(value, list) else value for name, value in case.items()}
        count = asked["seeds"]
        if columns := options.pop("columns", None):
            options["size"], count = (columns * size[0], size[1]), max(1, count // 8)
        tokens = gen.generate(count, 0, **options).tokens
        answers[f"{bundle or gen.manifest.name} {json.dumps(case)}"] = hashlib.sha256(tokens.tobytes()).hexdigest()
    if "encoder" in gen.manifest.components:
        image = gen.generate(1, 5).images[0]
        mask = np.zeros((size[1], size[0]), bool)
        mask[:, size[0] // 2 :] = True
        tokens = gen.inpaint(image, mask, 4).tokens
        answers[f"{bundle or gen.manifest.name} inpaint"] = hashlib.sha256(tokens.tobytes()).hexdigest()
print(json.dumps(answers))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("before", help="a commit")
    parser.add_argument("--seeds", type=int, default=64)
    parser.add_argument("--work", type=Path, help="folder of the tiny bundles, made when it is missing")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        old = Path(folder) / "before"
        git("worktree", "add", "--detach", str(old), options.before)
        try:
            work = options.work or Path(folder) / "work"
            bundles = ["", *map(str, tiny_bundles(old, work))]
            asked = {"bundles": bundles, "common": COMMON, "own": OWN, "canvas": CANVAS, "seeds": options.seeds}
            before, after = (answers(root, asked) for root in (old, HERE))
        finally:
            git("worktree", "remove", "--force", str(old))
    differ = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
    print(f"{len(before)} draws of up to {options.seeds} seeds: {len(before) - len(differ)} equal")
    for name in differ:
        print(f"differs: {name}")
    sys.exit(1 if differ else 0)


def git(*arguments: str) -> None:
    subprocess.run(
        ["git", "-C", str(HERE), *arguments], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


def environment(root: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(str(root / name) for name in ROOTS)}


def tiny_bundles(root: Path, work: Path) -> list[Path]:
    """Train and export with the code in ``root``; what is in ``work`` already is kept."""

    def smalti(*arguments: object) -> None:
        line = [sys.executable, "-m", "smalti.cli", *map(str, arguments)]
        subprocess.run(line, check=True, env=environment(root), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    for codec in set(PRESETS.values()):
        if not (work / f"codec-{codec}").exists():
            smalti("train", "autoencoder", "--preset", codec, "--run", work / f"codec-{codec}", "--steps", 60)
    for preset, codec in PRESETS.items():
        if not (work / preset / "manifest.json").exists():
            run = work / f"run-{preset}"
            smalti(
                "train",
                "prior",
                "--preset",
                preset,
                "--run",
                run,
                "--autoencoder",
                work / f"codec-{codec}",
                "--steps",
                60,
            )
            smalti("export", run, "-o", work / preset, "--precision", "fp32")
    return [work / preset for preset in PRESETS]


def answers(root: Path, asked: dict[str, Any]) -> dict[str, str]:
    done = subprocess.run(
        [sys.executable, "-c", CHILD],
        check=True,
        input=json.dumps(asked),
        stdout=subprocess.PIPE,
        text=True,
        env=environment(root),
        cwd=root,
    )
    return json.loads(done.stdout)


if __name__ == "__main__":
    main()
