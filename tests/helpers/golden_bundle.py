"""A small bundle of a table denoiser, with golden inputs and a certificate as an export would store them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from safetensors.numpy import save

import smalti
from helpers.table_denoiser import TableDenoiser
from smalti.verification.comparison import draw

GRID, CODES, LABELS = (3, 4), 6, 2
LENGTH = GRID[0] * GRID[1]
TENSORS = dict[str, np.ndarray]
TOLERANCES = {
    "denoiser": {"logit_error": 1e-3, "draw_agreement": 0.99},
    "decoder": {"psnr": 50.0},
    "encoder": {"token_agreement": 0.98},
}


def plain_bundle(path: Path) -> Path:
    """Without golden inputs, as smalti 0.1.0 wrote them."""
    return TableDenoiser(GRID, CODES, LABELS).bundle(path)


def golden_tensors(path: Path, batch: int = 8) -> TENSORS:
    """Questions, and the answers of the table itself and of the codec in the bundle at ``path``."""
    table, rng = TableDenoiser(GRID, CODES, LABELS), np.random.default_rng(3)
    tensors: TENSORS = {}
    for case in range(2):
        tokens = rng.integers(0, CODES, (batch, LENGTH)).astype(np.int32)
        labels = rng.integers(0, LABELS + 1, batch).astype(np.int32)
        rows = np.tile(rng.permutation(LENGTH).astype(np.int32), (batch, 1))
        logits = table(tokens, labels, rows)
        draws = draw(logits, rows, GRID[1], LENGTH, 1.0, case)
        draws[:, -1] = -1  # as where a token is not masked
        inputs = {"tokens": tokens, "labels": labels, "rows": rows}
        tensors |= {f"denoiser.{case}.in.{name}": value for name, value in inputs.items()}
        tensors |= {f"denoiser.{case}.out.draws": draws, f"denoiser.{case}.out.logits": logits[:, :3].copy()}
    gen = smalti.load(path, "cpu")
    grids = rng.integers(0, CODES, (3, *GRID)).astype(np.int32)
    images = np.stack([np.asarray(image) for image in gen.decode(grids)])
    tensors |= {"decoder.0.in.tokens": grids, "decoder.0.out.images": images}
    tensors |= {"encoder.0.in.images": images, "encoder.0.out.tokens": gen.encode(list(images))}
    tensors["runs"] = gen.generate(seeds=range(5), label=["a", "b", "a", "b", "a"]).tokens
    return tensors


def golden_bundle(path: Path, change: Callable[[TENSORS], object] = lambda tensors: None) -> Path:
    """Write such a bundle to ``path``; ``change`` may spoil what is stored."""
    tensors = golden_tensors(plain_bundle(path))
    change(tensors)
    add_file(path, "golden", "golden.safetensors", save(tensors))
    content = json.loads((path / "manifest.json").read_text())
    content["certificate"] = [
        {"component": role, "precision": "fp32", "provider": "cpu", "figures": bounds, "tolerances": bounds}
        for role, bounds in TOLERANCES.items()
    ]
    (path / "manifest.json").write_text(json.dumps(content))
    return path


def add_file(path: Path, field: str, name: str, data: bytes) -> None:
    """Write a file into a bundle and declare it in a field of the manifest."""
    (path / name).write_bytes(data)
    content = json.loads((path / "manifest.json").read_text())
    content[field] = {"file": name, "sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    (path / "manifest.json").write_text(json.dumps(content))
