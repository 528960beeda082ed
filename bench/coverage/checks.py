"""What can be found out without a GPU, one function a check. Each takes an empty folder and gives claims.

A check that lacks a package or a program raises ``Lacking``; what it finds to be wrong is a claim that did not pass.
To add one, write such a function and name it in ``CHECKS``; those on the stub driver are in ``on_stub.py``.
"""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final
from xml.etree import ElementTree

from evidence import Claim
from on_stub import kernels_emulated, loop_emulated
from tried import ROOT, Figures, Lacking, tried

import smalti
from helpers import swiftshader
from smalti.errors import UsageError
from smalti_kernels.impl.cuda.prebuilt import FOLDER, MANIFEST, read_image, read_manifest
from smalti_kernels.impl.cuda.targets import TARGETS, Target

DIGITS: Final = 16
"""How much of a hash is noted."""


def kernels_built(scratch: Path) -> Iterator[Claim]:
    """Whether every prebuilt file is there and is the one of the manifest."""
    manifest = hashlib.sha256((FOLDER / MANIFEST).read_bytes()).hexdigest()[:DIGITS]
    entries = read_manifest().entries.values()

    def check(target: Target) -> tuple[bool, Figures]:
        images = [read_image(entry) for entry in entries if entry.target == target.name]
        return bool(images), {"kernels": len(images), "bytes": sum(map(len, images)), "manifest": manifest}

    what = "Every prebuilt kernel is in its archive, with the hash of the manifest"
    for target in TARGETS:
        yield tried("kernels", target.name, "built", what, lambda target=target: check(target))


WEBGPU_TESTS: Final = "tests/runtime/test_webgpu.py"
WEBGPU_NEEDED: Final = ("tokens_are_those_of_the_cpu", "golden_inputs", "all_that_takes_time_runs_on_the_device")


def webgpu_emulated(scratch: Path) -> Iterator[Claim]:
    """Whether the tests of provider webgpu pass on SwiftShader. They train a tiny model and run four families."""
    if reason := swiftshader.missing():
        raise Lacking(reason)

    def check() -> tuple[bool, Figures]:
        out = scratch / "junit.xml"
        arguments = [WEBGPU_TESTS, "-p", "no:cacheprovider", "--junitxml", str(out), "--basetemp", str(scratch / "tmp")]
        command = [sys.executable, "-m", "pytest", *arguments]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        cases = list(ElementTree.parse(out).iter("testcase"))
        passed = [str(case.get("name")) for case in cases if not len(case)]
        bad = [case for case in cases if case.find("failure") is not None or case.find("error") is not None]
        there = all(any(needed in name for name in passed) for needed in WEBGPU_NEEDED)
        figures: Figures = {"tests": len(cases), "passed": len(passed), "failed": len(bad)}
        return done.returncode == 0 and there and not bad, figures

    what = (
        "On SwiftShader, a Vulkan driver that computes on the CPU, in fp32: tokens of four families are the CPU's, "
        f"golden inputs are within the certificate, all that takes time is on the device ({WEBGPU_TESTS})"
    )
    yield tried("webgpu", "vulkan", "emulated", what, check)


def engines_built(scratch: Path) -> Iterator[Claim]:
    """Whether TensorRT-RTX builds an engine for each target; a target that it does not know is a ``no``."""
    try:
        import tensorrt_rtx
    except ImportError as error:
        raise Lacking("TensorRT-RTX") from error
    from smalti_export.engines.toolkit import PortableToolkit

    bundle = smalti.open_bundle()
    graph, profiles = denoiser_for_tensorrt(bundle, scratch)

    def check(target: str) -> tuple[bool, Figures]:
        started = time.perf_counter()
        plan = PortableToolkit((target,)).build(graph, profiles)
        figures: Figures = {"bytes": len(plan), "seconds": round(time.perf_counter() - started, 1)}
        return plan.startswith(b"vtrt"), figures | {"bundle": bundle.digest[:DIGITS]}

    own = [target.name for target in TARGETS if not target.ptx]
    known = [f"sm_{name[2:]}" for name in dir(tensorrt_rtx.ComputeCapability) if re.fullmatch(r"SM\d+", name)]
    version = tensorrt_rtx.__version__
    for target in [*own, *sorted(set(known) - set(own))]:
        try:
            PortableToolkit((target,))
        except UsageError as error:
            reason = str(error).partition(": ")[2].partition(". ")[0]
            print(f"  rtx {target} no: {reason}", flush=True)
            yield Claim("rtx", target, "no", "TensorRT-RTX has no such target", True, reason=reason)
            continue
        what = f"TensorRT-RTX {version} builds an fp16 engine of the embedded bundle's denoiser, without a GPU"
        yield tried("rtx", target, "built", what, lambda target=target: check(target))


def denoiser_for_tensorrt(bundle: smalti.Bundle, folder: Path) -> tuple[Path, Any]:
    """The fp16 denoiser as ``smalti engine build`` hands it to the builder, beside its weights, and its profiles."""
    import onnx

    from smalti_export.engines.graphs import for_tensorrt
    from smalti_export.engines.profiles import make_profiles

    variant, manifest = bundle.variant("denoiser", "fp16"), bundle.manifest
    for file in variant.weights:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_bytes(bundle.read(file))
    graph = folder / "denoiser.fp16.onnx"
    proto = for_tensorrt(onnx.ModelProto.FromString(bundle.read(variant.graph.file)))
    graph.write_bytes(proto.SerializeToString(deterministic=True))
    component, resolution = manifest.components["denoiser"], manifest.resolution_of("denoiser")
    return graph, make_profiles("denoiser", component, manifest.latent, resolution)


def cpu_ran(scratch: Path) -> Iterator[Claim]:
    """Whether the embedded bundle's golden inputs are within its certificate on this CPU."""
    command = [sys.executable, "-m", "smalti.cli", "bundle", "verify", "--run", "--provider", "cpu", "--json"]
    done = subprocess.run(command, cwd=scratch, capture_output=True, text=True, check=False)

    def report() -> tuple[str, list[dict[str, Any]]]:
        if not done.stdout:
            raise RuntimeError(f"smalti bundle verify ended with {done.returncode}: {done.stderr.strip()[-150:]}")
        content = json.loads(done.stdout)
        return content["digest"][:DIGITS], content["remeasured"]

    def network() -> tuple[bool, Figures]:
        digest, measured = report()
        missed = sum(bool(one["missed"]) for one in measured)
        figures: Figures = {"variants": len(measured), "out of tolerance": missed, "bundle": digest}
        for one in measured:
            if one["component"] == "decoder":
                figures[f"psnr of the decoder, {one['precision']}"] = round(one["figures"]["psnr"], 2)
        return done.returncode == 0 and bool(measured) and not missed, figures

    def draw() -> tuple[bool, Figures]:
        digest, measured = report()
        prior = next(one for one in measured if (one["component"], one["precision"]) == ("denoiser", "fp32"))
        names = ("draws", "draw_agreement", "grids", "grid_agreement")
        figures: Figures = {name: round(prior["figures"][name], 6) for name in names}
        return not prior["missed"], figures | {"bundle": digest}

    what = "Golden inputs of the embedded bundle, in fp32, fp16 and int8, are within its certificate"
    yield tried("cpu", "cpu", "ran", what, network)
    what = "The draw in NumPy, which is the definition: draws and whole runs of the golden inputs, in fp32"
    yield tried("kernels", "cpu", "ran", what, draw)


CHECKS: Final[dict[str, Callable[[Path], Iterator[Claim]]]] = {
    "kernels-built": kernels_built,
    "kernels-emulated": kernels_emulated,
    "loop-emulated": loop_emulated,
    "engines-built": engines_built,
    "webgpu-emulated": webgpu_emulated,
    "cpu-ran": cpu_ran,
}
"""All checks, by names that the command line takes."""
