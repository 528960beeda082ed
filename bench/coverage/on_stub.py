"""Checks on the stub driver as a GPU of each generation: the kernels, and runs that stay on the device.

Engines are not among them: nothing here executes one, so runs on a stand-in for TensorRT's runtime are no evidence.
"""

from __future__ import annotations

import contextlib
import io
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
from evidence import Claim
from targets import TargetDevice, texts_of
from tried import Figures, Lacking, tried

import smalti
from gpu.cases import Cases
from gpu.equality import CUT, PLAIN, count_differing
from gpu.report import Report
from gpu.small_kernels import compare as compare_small
from helpers.stub_driver import Stub, build_stub
from helpers.table_denoiser import TableDenoiser, TimedTableDenoiser
from smalti_kernels.impl.cuda.targets import TARGETS, Target


def stub_in(folder: Path) -> Stub:
    """The stub driver, compiled now."""
    if not any(map(shutil.which, ("cc", "gcc", "clang"))):
        raise Lacking("a C compiler")
    return build_stub(folder)


def texts_or_lacking(target: Target) -> dict[str, str]:
    """PTX of a target's forms."""
    try:
        return texts_of(target)
    except ModuleNotFoundError as error:
        raise Lacking("Triton, which makes the PTX of each target") from error


def kernels_emulated(scratch: Path) -> Iterator[Claim]:
    """Whether the kernels of each target draw, and move and mix, what the definition does."""
    stub = stub_in(scratch)

    def check(target: Target) -> tuple[bool, Figures]:
        texts = texts_or_lacking(target)
        kernels, cases = TargetDevice(stub, target, texts).kernels(), Cases(1 << 18)
        wrong = draws = 0
        for kind, vocabulary, flags in (("fp32", 200, PLAIN), ("bf16", 1000, PLAIN), ("fp16", 784, CUT)):
            for options in flags.values():
                wrong += count_differing(cases.request(kind, 12, vocabulary, **options), kernels)
                draws += 12
        small = Report("small kernels", "stub")
        with contextlib.redirect_stdout(io.StringIO()):
            compare_small(small, kernels, large=False)
        if small.failed:
            raise RuntimeError(str(small.failed))
        wrong += sum(int(figure.value) for figure in small.figures)
        elements = sum(figure.samples for figure in small.figures)
        figures: Figures = {"kernels": len(texts), "draws": draws, "elements of small kernels": elements}
        chosen = kernels.target == target and small.status == "passed"
        return chosen and not wrong, figures | {"that differ": wrong}

    cubin = (
        "The launcher loads the target's cubins on the stub driver. Executed instead is the PTX that they were "
        "assembled from, by hash: draws, moves and mixtures equal the NumPy definition"
    )
    ptx = (
        "The launcher loads the shipped PTX on the stub driver. Executed, its draws, moves and mixtures equal the "
        "NumPy definition"
    )
    for target in TARGETS:
        what = ptx if target.ptx else cubin
        yield tried("kernels", target.name, "emulated", what, lambda target=target: check(target))


RUNS: Final[list[tuple[str, dict[str, Any]]]] = [
    ("absorbing", {"steps": 2}),
    ("absorbing", {"steps": 2, "guidance": 2.0, "order": "confidence"}),
    ("sundae", {"count": 3, "steps": 22}),
    ("sundae", {"size": (24, 16), "steps": 3, "guidance": 2.0}),
    ("multinomial", {"count": 2, "top_k": 3, "top_p": 0.9}),
    ("multinomial", {"size": (24, 16), "guidance": 1.7}),
]
"""Runs of the device loop, by family: the embedded bundle, and bundles whose priors are tables."""


def loop_emulated(scratch: Path) -> Iterator[Claim]:
    """Whether runs of provider cuda, with the kernels of each target, give the CPU's tokens and pixels."""
    stub, labels = stub_in(scratch), ("a", "b")
    bundles = {
        "absorbing": smalti.open_bundle(),
        "sundae": smalti.open_bundle(TableDenoiser((3, 4), 6, 2).bundle(scratch / "sundae", classes=labels)),
        "multinomial": smalti.open_bundle(
            TimedTableDenoiser((3, 4), 6, 2, 30).bundle(scratch / "multinomial", classes=labels, steps=5)
        ),
    }
    cpu = {name: smalti.load(bundle, "cpu", "fp32", 1) for name, bundle in bundles.items()}
    expected = [cpu[family].generate(seed=11, **options) for family, options in RUNS]

    def check(target: Target) -> tuple[bool, Figures]:
        device = TargetDevice(stub, target, texts_or_lacking(target))
        gens = {name: smalti.load(one, precision="fp32", backend=device.backend()) for name, one in bundles.items()}
        wrong = tokens = values = 0
        for (family, options), other in zip(RUNS, expected):
            found = gens[family].generate(seed=11, **options)
            wrong += int((found.tokens != other.tokens).sum())
            tokens += found.tokens.size
            for one, same in zip(found.images, other.images, strict=True):
                wrong += int((np.asarray(one) != np.asarray(same)).sum())
                values += np.asarray(one).size
        launches = sum(device.launched.values())
        chosen = device.kernels().target == target and device.launched["smalti_sample"] > 0
        figures: Figures = {"tokens": tokens, "pixel values": values, "that differ": wrong, "launches": launches}
        return chosen and not wrong, figures

    what = (
        "Whole runs of three families on the stub driver, with the target's kernels as above and ONNX Runtime's CPU "
        "provider on its memory: tokens and pixels are the CPU's, in fp32"
    )
    for target in TARGETS:
        yield tried("cuda", target.name, "emulated", what, lambda target=target: check(target))
