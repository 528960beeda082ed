"""Limits of a call: they refuse before work, see quotas of cores and memory, and tell a lack of memory."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import smalti
from smalti.backends.onnxruntime_options import cannot_run
from smalti.errors import exit_code
from smalti_kernels import platform

TIGHT = {"threads": 1, "count": 2, "steps": 4, "pixels": 512 * 256, "all_pixels": 3 * 256 * 256}
WHITE = Image.new("RGB", (256, 256), "white")


@pytest.fixture(scope="module")
def tight() -> smalti.Generator:
    return smalti.load(backend=smalti.NullBackend(), limits=smalti.Limits(**TIGHT))


OVER: list[tuple[str, dict[str, Any], str]] = [
    ("generate", {"count": 3}, "count 3: at most 2"),
    ("generate", {"count": 10**8}, "count 100000000: at most 2"),
    ("generate", {"count": 10**18}, "count"),
    ("generate", {"seeds": range(3)}, "seeds: at most 2"),
    ("generate", {"seeds": range(10**12)}, "seeds: at most 2"),
    ("generate", {"seeds": np.arange(10**6)}, "seeds: at most 2"),
    ("generate", {"steps": 5}, "steps 5: allowed are 1 .. 4;"),
    ("generate", {"steps": 10**6}, "steps 1000000: allowed are 1 .. 4;"),
    ("generate", {"size": (512, 512), "steps": 1}, "size 512x512: at most 131072 pixels"),
    ("generate", {"resolution": 1024, "steps": 1}, "size 1024x1024"),
    ("generate", {"count": 2, "size": (512, 256), "steps": 1}, "262144 pixels in all"),
    ("stream", {"count": 3}, "count 3"),
    ("stream", {"steps": 5}, "steps 5"),
    ("inpaint", {"image": Image.new("RGB", (512, 512)), "mask": Image.new("L", (512, 512), 255)}, "image 512x512"),
    ("outpaint", {"image": WHITE, "right": 512}, "right 512"),
    ("outpaint", {"image": WHITE, "left": 10**9}, "left 1000000000"),
    ("vary", {"image": WHITE, "count": 3}, "count 3"),
    ("encode", {"images": [WHITE] * 3}, "images"),
    ("encode", {"images": [Image.new("RGB", (1024, 256))]}, "images 1024x256"),
    ("embed", {"images": [WHITE] * 3}, "images"),
    ("decode", {"tokens": np.zeros((3, 2, 2), np.int32)}, "tokens: images 3: at most 2"),
    ("decode", {"tokens": np.zeros((64, 64), np.int32)}, "tokens: pictures of 1024x1024"),
    ("decode", {"tokens": np.broadcast_to(np.int32(0), (10**6, 10**6))}, "tokens"),
]


@pytest.mark.parametrize(("call", "arguments", "told"), OVER, ids=[f"{call}-{told}" for call, _, told in OVER])
def test_cases_beyond_a_limit_are_refused_before_work(
    call: str, arguments: dict[str, Any], told: str, tight: smalti.Generator
) -> None:
    with pytest.raises(smalti.UsageError, match=told) as raised:
        getattr(tight, call)(**arguments)
    assert "Limits" in str(raised.value)


def test_cases_within_the_limits_are_drawn(tight: smalti.Generator) -> None:
    for arguments in ({"count": 2}, {"steps": 4}, {"size": (512, 256), "steps": 1}, {"seeds": [4, 5], "steps": 1}):
        assert tight.generate(**{"steps": 1, **arguments}).images
    assert tight.encode([WHITE, WHITE]).shape == (2, 16, 16)


def test_cases_of_too_much_memory_are_refused_before_work() -> None:
    small = smalti.load(backend=smalti.NullBackend(), limits=smalti.Limits(memory=2**26))
    assert small.generate(steps=8).images
    wide = {"size": (16384, 16384)}
    for call in (
        lambda: small.generate(**wide),
        lambda: small.generate(500, steps=1),
        lambda: small.encode([np.broadcast_to(np.uint8(0), (8192, 8192, 3))]),
        lambda: small.decode(np.broadcast_to(np.int32(0), (512, 512))),
    ):
        with pytest.raises(smalti.OutOfMemory, match=r"GiB .*smalti\.Limits\(memory"):
            call()


@pytest.mark.parametrize("asked", [0, -1, 10**6, 20_000, 10**30, 1.5, "2", True])
def test_cases_of_threads_that_no_machine_should_start(asked: Any) -> None:
    with pytest.raises(smalti.UsageError, match="threads"):
        smalti.load(provider="cpu", threads=asked)


@pytest.mark.parametrize("value", ["0", "-1", "many", "1000000", "1.5"])
def test_cases_of_a_wrong_environment_variable(value: str, monkeypatch) -> None:
    monkeypatch.setenv("SMALTI_THREADS", value)
    with pytest.raises(smalti.UsageError, match="SMALTI_THREADS"):
        smalti.load(provider="cpu")
    assert platform.usable_cores() >= 1


def test_cases_of_the_environment_variable_choose_the_threads(monkeypatch) -> None:
    monkeypatch.setenv("SMALTI_THREADS", "1")
    assert smalti.load(provider="cpu").report.threads == 1
    assert platform.usable_cores() == 1
    assert smalti.load(provider="cpu", threads=2).report.threads == 2
    monkeypatch.setenv("SMALTI_THREADS", "")
    assert smalti.load(provider="cpu").report.threads == platform.usable_cores()


GROUPS: list[tuple[str, dict[str, str], float | None, int | None]] = [
    ("0::/", {"cpu.max": "150000 100000\n", "memory.max": "1073741824\n"}, 1.5, 2**30),
    ("0::/a/b", {"a/b/cpu.max": "max 100000\n", "a/cpu.max": "50000 100000", "memory.max": "max"}, 0.5, None),
    ("0::/not/seen/here", {"cpu.max": "200000 100000"}, 2.0, None),
    ("3:cpu,cpuacct:/x\n2:memory:/x", {
        "cpu/x/cpu.cfs_quota_us": "300000", "cpu/x/cpu.cfs_period_us": "100000",
        "memory/x/memory.limit_in_bytes": "2147483648"}, 3.0, 2**31),
    ("3:cpu:/x", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None, None),
    ("3:cpu,cpuacct:/", {
        "cpu,cpuacct/cpu.cfs_quota_us": "10000", "cpu,cpuacct/cpu.cfs_period_us": "100000"}, 0.1, None),
    ("", {}, None, None),
    ("0::/", {"cpu.max": "nonsense", "memory.max": "-5"}, None, None),
]  # fmt: skip


@pytest.mark.parametrize(("own", "files", "cores", "memory"), GROUPS)
def test_cases_of_quotas_of_both_versions_of_control_groups(
    own: str, files: dict[str, str], cores: float | None, memory: int | None, tmp_path: Path, monkeypatch
) -> None:
    (tmp_path / "own").write_text(own)
    for name, text in files.items():
        (tmp_path / "groups" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "groups" / name).write_text(text)
    found = platform.cpu_quota(tmp_path / "groups", tmp_path / "own")
    assert found == cores
    assert platform.memory_limit(tmp_path / "groups", tmp_path / "own") == memory
    monkeypatch.setattr(platform, "cpu_quota", lambda: found)
    monkeypatch.setattr(platform.os, "sched_getaffinity", lambda _: set(range(64)), raising=False)
    monkeypatch.delenv("SMALTI_THREADS", raising=False)
    assert platform.usable_cores() == (64 if cores is None else max(1, int(cores + 0.99)))
    assert smalti.Limits().threads == 4 * platform.usable_cores()


def test_cases_of_a_lack_of_memory_are_typed(monkeypatch) -> None:
    gen = smalti.load(backend=smalti.NullBackend())
    steps = list(gen.stream(steps=1))
    result = gen.generate(steps=1)

    def fail(*_: object, **__: object) -> None:
        raise MemoryError("Unable to allocate 8.00 GiB for an array")

    monkeypatch.setattr("smalti.codec.batches.decode_tiled", fail)
    monkeypatch.setattr("smalti.codec.batches.encode_tiled", fail)
    monkeypatch.setattr("smalti.drawing.result.contact_sheet", fail)
    for call in (
        lambda: gen.generate(steps=1),
        lambda: gen.decode(result.tokens),
        lambda: gen.encode([WHITE]),
        lambda: gen.vary(WHITE, steps=1),
        steps[0].images,
        lambda: result.save("never.png"),
    ):
        with pytest.raises(smalti.OutOfMemory, match=r"8\.00 GiB") as raised:
            call()
        assert isinstance(raised.value, smalti.SmaltiError)
        assert isinstance(raised.value, MemoryError)
        assert exit_code(raised.value) == 1


@pytest.mark.parametrize("text", ["Failed to allocate memory for requested buffer of size 9", "std::bad_alloc", ""])
def test_cases_of_a_lack_of_memory_in_onnx_runtime_are_typed(text: str) -> None:
    error = RuntimeError(text) if text else MemoryError()
    assert isinstance(cannot_run("here", error), smalti.OutOfMemory)
    assert isinstance(cannot_run("here", RuntimeError("Invalid dimension")), smalti.BundleError)


@pytest.mark.skipif(sys.platform != "linux", reason="limits the address space")
def test_cases_of_a_real_lack_of_memory_end_in_an_error_of_smalti(tmp_path: Path) -> None:
    code = """
import resource, numpy as np, smalti
gen = smalti.load(provider="cpu", threads=1, limits=smalti.Limits(memory=2**50))
gen.generate(steps=1)
with open("/proc/self/statm") as file:
    used = int(file.read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 2**27, used + 2**27))
for call in (lambda: gen.generate(200, steps=1), lambda: gen.encode([np.zeros((4096, 4096, 3), np.uint8)] * 8),
             lambda: gen.decode(np.zeros((900, 900), np.int32))):
    try:
        call()
    except smalti.OutOfMemory as error:
        print("told")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout.split() == ["told"] * 3, done.stderr


def npy(shape: tuple[int, ...], kind: str = "<i4", body: bytes = b"", version: tuple[int, int] = (1, 0)) -> bytes:
    """A file whose header claims more than follows."""
    buffer = io.BytesIO()
    header = {"descr": kind, "fortran_order": False, "shape": shape}
    write = np.lib.format.write_array_header_1_0 if version == (1, 0) else np.lib.format.write_array_header_2_0
    write(buffer, header)
    return buffer.getvalue() + body


FILES = {
    "terabytes": npy((10**6, 10**6)),
    "terabytes, version 2": npy((10**6, 10**6), version=(2, 0)),
    "beyond 64 bits": npy((2**40, 2**40)),
    "one byte short": npy((2, 2, 2), body=bytes(31)),
    "large items": npy((1,), "|S1000000000"),
    "negative": npy((-4, 4)),
    "objects": npy((10**9,), "|O"),
    "cut in the header": npy((2, 2))[:40],
    "no magic": b"text" * 9,
    "empty": b"",
    "a zip": b"PK\x03\x04" + bytes(40),
}


@pytest.mark.parametrize("name", FILES)
def test_cases_of_arrays_whose_header_lies_are_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "tokens.npy").write_bytes(FILES[name])
    command = [sys.executable, "-m", "smalti.cli", "decode", "tokens.npy", "-o", "out.png", "--provider", "cpu"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2, done.stderr
    assert "tokens.npy" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out.png").exists()
