"""``bench/gpu/run.py`` refuses kindly without a GPU, and runs every step on the stub, in the tree of ``thin.py``."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import smalti

GPU = Path(__file__).parents[2] / "bench/gpu"
STEPS = [
    "environment",
    "cubin",
    "ptx",
    "small-kernels",
    "triton",
    "memory-checks",
    "kernel-speed",
    "loop",
    "seconds",
    "tests",
]
NEEDS_A_GPU = {"triton", "tests"}
FIGURE = {"name", "value", "unit", "samples", "ran_on", "verdict", "note"}


def call(script: Path, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(script), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment})


def test_without_a_gpu_it_says_what_is_missing_and_how_to_go_on(tmp_path: Path) -> None:
    done = call(GPU / "run.py", CUDA_VISIBLE_DEVICES="", OUT=str(tmp_path / "out"))
    assert done.returncode == 1
    assert done.stderr.startswith("nothing was run: ")
    assert "NVIDIA driver" in done.stderr
    for command in ("run.py\n", "thin.py OUT\n", "run.py --stub\n"):
        assert f"    python bench/gpu/{command}" in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def thin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("thin") / "tree"
    done = call(GPU / "thin.py", folder)
    assert done.returncode == 0, done.stderr
    assert f"{sum(file.stat().st_size for file in folder.rglob('*') if file.is_file()) / 2**20:.2f} MiB" in done.stdout
    return folder


def test_the_thin_tree_has_what_is_drawn_with(thin: Path) -> None:
    bundle = smalti.open_bundle(thin / "runtime/smalti/embedded/avatars")
    components = bundle.manifest.components
    assert set(components) == {"denoiser", "decoder", "decoder_512", "decoder_1024"}
    assert all(set(bundle.precisions(role)) == {"fp16", "fp32"} for role in components)
    for record in bundle.manifest.files():
        bundle.read(record.file)
    assert call(GPU / "thin.py", thin).returncode == 1
    assert call(thin / "bench/gpu/run.py", CUDA_VISIBLE_DEVICES="").returncode == 1


@pytest.mark.slow
def test_every_step_runs_on_the_stub_from_the_thin_tree(thin: Path, tmp_path: Path) -> None:
    if not any(shutil.which(name) for name in ("cc", "gcc", "clang")):
        pytest.skip("no C compiler to build the stub driver with")
    done = call(thin / "bench/gpu/run.py", "--stub", OUT=str(tmp_path))
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-5000:]
    assert done.stdout.startswith("Nothing was measured.")
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert (found["schema"], found["measured"], found["ran_on"]) == (1, False, "stub")
    assert found["device"]["name"] == "Stub 70"
    assert {"python", "numpy"} <= found["versions"].keys()
    assert [*found["steps"]] == STEPS
    for name, step in found["steps"].items():
        assert step["status"] == ("skipped" if name in NEEDS_A_GPU else "passed"), name
        assert bool(step["figures"]) == (name not in NEEDS_A_GPU)
        assert step["figures"] or step["skipped"]
        for figure in step["figures"]:
            assert figure.keys() == FIGURE
            assert figure["ran_on"] == "stub"
            assert figure["samples"] > 0
            assert figure["verdict"] in ("", "equal", "passed")  # the stub meets no target, and misses none
    names = [figure["name"] for step in found["steps"].values() for figure in step["figures"]]
    assert {"bf16 at V = 784", "bf16 at V = 1000", "bf16 at V = 2032", "guard zones of the draw"} <= {*names}
    page = (tmp_path / "gpu.md").read_text()
    assert "**Nothing was measured.**" in page
    assert all(f"| {name} | " in page for name in STEPS)
    assert call(thin / "bench/gpu/run.py", "--stub", "--only", "tests", OUT=str(tmp_path / "x")).returncode == 1


@pytest.fixture
def gpu_modules(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(GPU.parent))


def test_a_difference_or_a_fault_is_a_failure_and_a_missed_target_is_none(gpu_modules: None, tmp_path: Path) -> None:
    from gpu.report import Report, markdown

    def report() -> Report:
        return Report("step", "gpu", tmp_path / "step.json")

    missed = report()
    missed.add("share", 12.3456, "%", 9, "not met")
    assert missed.status == "passed"
    wrong = report()
    wrong.compared("draws", 3, 100)
    assert wrong.status == "failed"
    broken = report()
    broken.fail("part", "CUDA_ERROR_ILLEGAL_ADDRESS")
    assert json.loads((tmp_path / "step.json").read_text())["status"] == broken.status == "failed"
    nothing = report()
    nothing.skip("part", "no | torch")
    assert nothing.status == "skipped"
    steps = {name: one.to_dict() for name, one in (("missed", missed), ("nothing", nothing))}
    content = {"measured": True, "device": {"name": "X"}, "versions": {}, "date": "", "seconds": 1, "command": ""}
    page = markdown({**content, "steps": steps})
    assert "Nothing was measured" not in page
    assert "| share | 12.35 % | 9 | GPU | not met |  |" in page
    assert "| nothing | skipped | nothing | 0.0 | part: no \\| torch |" in page


def test_a_write_beside_an_array_is_noticed(gpu_modules: None, stub) -> None:
    import ctypes

    import numpy as np

    from gpu.guarded import Guarded
    from helpers.stub_device import StubDevice

    kernels = StubDevice(stub).kernels()
    arrays = {"read": np.arange(5, dtype=np.int32), "written": np.zeros((2, 3), np.float32)}
    with Guarded(kernels, arrays) as held:
        assert held.spoiled(("written",)) == []
        assert held.read("read").tolist() == [0, 1, 2, 3, 4]
        for address in (held.address["read"] - 1, held.address["read"] + 4, held.address["written"] + 24):
            ctypes.c_uint8.from_address(address).value = 7
        assert held.spoiled(("written",)) == ["before read", "read", "after written"]
    assert stub.allocated == 0
