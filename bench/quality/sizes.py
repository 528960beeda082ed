"""Larger heads measured: ``python bench/quality/sizes.py RUN [--bundle BUNDLE] [-o FOLDER] [--count 256]``.

For unseen avatars drawn from their vectors at each size: PSNR and edge PSNR of what the heads of RUN make of their
tokens, and of the smaller picture enlarged by Lanczos: RUN's own, and what the bundle makes of its tokens. ``-o``
writes ``sizes.json`` and sheets of 1:1 crops (real, head, enlargement), ``--generate`` one of pictures that the
bundle's prior draws, if it has RUN's tokens. ``--time`` writes the graph of the largest size and times it and the
bundle's prior in ONNX Runtime, one call after the other.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray

import smalti
from smalti.bundle.manifest import TensorSpec
from smalti.saving.formats import contact_sheet
from smalti_export.graphs.graph_modules import wrap
from smalti_export.graphs.trace import GraphSpec, trace
from smalti_export.precision.int8 import last_layers, quantize
from smalti_train.data import ImageSet, open_dataset
from smalti_train.data.pixels import to_images, to_pixels
from smalti_train.evaluation.metrics import psnr
from smalti_train.models.size_heads import SCALES, SizedAutoencoder
from smalti_train.runs.loading import load_heads
from smalti_train.trainers.heads import decibels_by_size, enlarged

Pixels = NDArray[np.uint8]
PART = 8
CROP = 256


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--bundle", help="the embedded one by default")
    parser.add_argument("--count", type=int, default=256, help="unseen avatars")
    parser.add_argument("--time", action="store_true")
    parser.add_argument("--generate", action="store_true")
    parser.add_argument("-o", "--output", type=Path)
    options = parser.parse_args()
    model, config = load_heads(options.run)
    shipped = smalti.load(options.bundle, precision="fp32")
    report: dict[str, Any] = {"count": options.count}
    if options.output is not None:
        options.output.mkdir(parents=True, exist_ok=True)
    if options.count:
        sets = [
            open_dataset(config.data.name, size=config.data.size * scale, split="test", count=options.count)
            for scale in SCALES
        ]
        report |= figures(model, shipped, sets, options.output)
        print(table(report, sets[0].label_names))
    if options.time:
        report["seconds"] = timed(model, options.bundle)
        print(json.dumps(report["seconds"], indent=2))
    if options.output is not None:
        (options.output / "sizes.json").write_text(json.dumps(report, indent=1) + "\n")
        if options.generate:
            save(drawn(model, shipped), options.output / "generated.webp")


@torch.no_grad()
def decoded(model: SizedAutoencoder, tokens: NDArray[np.int32], scale: int) -> Pixels:
    return to_pixels(model.decode(torch.from_numpy(tokens).long(), scale))


def figures(
    model: SizedAutoencoder, shipped: smalti.Generator, sets: list[ImageSet], output: Path | None
) -> dict[str, Any]:
    """Figures by what made the picture, scale and kind: one value per image."""
    found: dict[str, list[float]] = {}
    labels = sets[0].labels[: len(sets[0])].tolist()
    for first in range(0, len(labels), PART):
        part = slice(first, first + PART)
        real = [np.asarray(one.images[part]) for one in sets]
        with torch.no_grad():
            tokens = model.encode(to_images(real[0])).numpy().astype(np.int32)
        made = {scale: decoded(model, tokens, scale) for scale in SCALES}
        old = np.stack([np.asarray(image) for image in shipped.decode(shipped.encode([*real[0]]))])
        for name, pictures in (("head", made), ("shipped", {1: old}), ("enlarged", {1: made[1]})):
            for (scale, kind), values in decibels_by_size(pictures, real).items():
                if name != "enlarged" or scale > 1:
                    key = f"{name} x{scale} {kind.removesuffix(' psnr')}"
                    found.setdefault(key, []).extend(values.tolist())
        if first == 0 and output is not None:
            rows = (real[-1], made[SCALES[-1]], enlarged(made[1], SCALES[-1]))
            save(np.concatenate([crops(row) for row in rows]), output / "crops.webp")
    by_label = {
        name: {
            sets[0].label_names[label]: float(np.mean([v for v, own in zip(values, labels) if own == label]))
            for label in sorted(set(labels))
        }
        for name, values in found.items()
    }
    return {"figures": {name: {"mean": float(np.mean(values)), **by_label[name]} for name, values in found.items()}}


def crops(images: Pixels) -> Pixels:
    """The middles of images, a little above which avatars have their faces."""
    side = images.shape[1]
    top, left = (side - CROP) // 2, (side - CROP) // 2
    return images[:, top : top + CROP, left : left + CROP]


def drawn(model: SizedAutoencoder, gen: smalti.Generator, each: int = 1) -> Pixels:
    """Crops of pictures that the prior draws, a column per label: by the head, and the shipped picture enlarged."""
    result = gen.generate(each * len(gen.labels), seed=0, label=list(gen.labels) * each)
    large = np.concatenate([decoded(model, result.tokens[i : i + 1], SCALES[-1]) for i in range(len(result.tokens))])
    small = enlarged(np.stack([np.asarray(image) for image in result.images]), SCALES[-1])
    return np.concatenate([crops(large), crops(small)])


def save(images: Pixels, path: Path) -> None:
    contact_sheet(images, 8).save(path, quality=88, method=6)


def table(report: dict[str, Any], names: tuple[str, ...]) -> str:
    lines = [
        f"| {report['count']} unseen avatars, dB | mean | {' | '.join(names)} |",
        "| --- " * (len(names) + 2) + "|",
    ]
    for name, row in report["figures"].items():
        cells = [f"{row[column]:.2f}" for column in ("mean", *(label for label in names if label in row))]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def timed(model: SizedAutoencoder, bundle: str | None, repeats: int = 15) -> dict[str, float]:
    """Median seconds of one picture: the prior's calls as the bundle draws, and each graph of the largest size."""
    gen = smalti.load(bundle)
    tokens = gen.generate(8, seed=0).tokens
    factor = model.config.factor * SCALES[-1]
    spec = GraphSpec(
        (TensorSpec(name="tokens", dtype="int32", shape=("n", "h", "w")),),
        (TensorSpec(name="images", dtype="uint8", shape=("n", f"{factor}*h", f"{factor}*w", 3)),),
    )
    whole = trace("decoder", wrap("decoder", model, SCALES[-1]), spec)
    feeds = [{"tokens": tokens[i : i + 1]} for i in range(4)]
    graphs = {"fp32": whole, "int8": quantize(whole, feeds, last_layers(whole, 1))}
    sessions: dict[str, onnxruntime.InferenceSession] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, proto in graphs.items():
            onnx.save(proto, Path(folder) / name)
            sessions[name] = onnxruntime.InferenceSession(Path(folder) / name, providers=["CPUExecutionProvider"])
    seconds: dict[str, list[float]] = {}
    outputs: dict[str, Pixels] = {}
    for repeat in range(repeats + 1):
        for name, session in sessions.items():
            started = time.perf_counter()
            (outputs[name],) = session.run(None, {"tokens": tokens[:1]})
            if repeat:
                seconds.setdefault(f"1024 head, {name}", []).append(time.perf_counter() - started)
        timings = gen.generate(1, seed=repeat).timings
        if repeat:
            seconds.setdefault("prior, network", []).append(timings.network)
            seconds.setdefault("prior, draw", []).append(timings.draw)
            seconds.setdefault("256 decoder", []).append(timings.decoder)
    found = {name: median(values) for name, values in seconds.items()}
    found["int8 against fp32, dB"] = float(psnr(outputs["int8"], outputs["fp32"])[0])
    torch_picture = decoded(model, tokens[:1], SCALES[-1])
    found["greatest difference to torch"] = float(np.abs(outputs["fp32"].astype(int) - torch_picture).max())
    return found


if __name__ == "__main__":
    main()
