"""How ``smalti doctor`` finds its facts: probes of stubs and of broken libraries, and this machine."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from smalti.system.platform import cache_folder
from smalti.verification.doctor import children, probe
from smalti.verification.doctor.children import Child
from smalti.verification.doctor.facts import Machine
from smalti.verification.doctor.finding import Finding
from smalti.verification.doctor.findings import conclude, draws_with
from smalti.verification.doctor.gather import gather
from smalti.verification.doctor.hardware import read_cpuinfo, read_pci, vendor_in
from smalti_kernels.impl.cuda.driver_calls import CAPABILITY_MAJOR, CAPABILITY_MINOR


def told(found: Machine, topic: str, verdict: str | None = None) -> Finding:
    """The only finding of a topic, or its only one with a verdict."""
    (one,) = [one for one in conclude(found) if one.topic == topic and verdict in (None, one.verdict)]
    return one


def test_the_stub_plays_a_driver_with_gpus(stub) -> None:
    stub.machine(capability=61, version=12040, devices=2)
    found = probe.answer("driver", "libnothing.so", stub.path)
    assert (found["library"], found["problem"], found["cuda"]) == (stub.path, "", (12, 4))
    assert [(one["name"], one["capability"], one["memory"]) for one in found["gpus"]] == [
        ("Stub 70", 61, None),
        ("Stub 71", 61, None),
    ]
    stub.fail("cuInit", 100)
    assert probe.answer("driver", stub.path)["problem"] == "CUDA_ERROR_NO_DEVICE (100)"
    stub.reset()
    stub.fail("cuDeviceGetName", 999)
    assert "GPU 0" in probe.answer("driver", stub.path)["problem"]
    assert not stub.calls("cuDevicePrimaryCtxRetain")
    assert probe.CAPABILITY == (CAPABILITY_MAJOR, CAPABILITY_MINOR)


def test_the_stub_is_a_gpu_of_this_machine(stub) -> None:
    found = gather(driver=[stub.path])
    assert [(one.capability, one.memory) for one in found.driver.gpus] == [(80, None)]
    assert found.driver.cuda == (12, 8)
    assert "runs the kernels sm_80" in told(found, "GPU").text
    assert found.problems == ()


def compiled(folder: Path, source: str) -> str:
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        pytest.skip("no C compiler to build a broken library with")
    (folder / "broken.c").write_text(source)
    subprocess.run([compiler, "-shared", "-fPIC", "-o", folder / "broken.so", folder / "broken.c"], check=True)
    return str(folder / "broken.so")


@pytest.mark.skipif(sys.platform == "win32", reason="libraries are compiled for POSIX")
def test_broken_libraries_become_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "noise.so").write_bytes(b"no library")
    found = gather(driver=[str(tmp_path / "noise.so")], vulkan=[str(tmp_path / "noise.so")])
    assert "noise.so" in told(found, "NVIDIA driver", "missing").text
    assert told(found, "Vulkan").text.startswith("its library is broken")
    crash = compiled(
        tmp_path,
        '#include <stdio.h>\n#include <stdlib.h>\nint cuInit(unsigned flags) { puts("5"); fflush(stdout); abort(); }',
    )
    found = gather(driver=[crash])
    assert "it crashes with code -6" in told(found, "NVIDIA driver", "missing").text
    assert draws_with(found, conclude(found)) == ["cpu"]
    empty = compiled(tmp_path, "int nothing;")
    assert "cuInit" in told(gather(driver=[empty]), "NVIDIA driver", "missing").text
    monkeypatch.setattr(children, "SECONDS", 1.0)
    hang = compiled(tmp_path, "#include <unistd.h>\nint cuInit(unsigned flags) { sleep(60); return 0; }")
    start = time.monotonic()
    assert Child("driver", hang).answer() == {"problem": "it did not answer within 1 s"}
    assert time.monotonic() - start < 10


def test_a_library_that_prints_and_a_program_without_python_do_no_harm(tmp_path, monkeypatch) -> None:
    (tmp_path / "noisy.py").write_text("print('hello')\n__version__ = '9'\ndef get_available_providers(): return ['A']")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert Child("inference", "noisy").answer() == {"version": "9", "providers": ["A"], "cuda": ""}
    monkeypatch.setattr(sys, "executable", str(tmp_path / "nothing"))
    assert "ModuleNotFoundError" in Child("inference", "nothing_of_that_name").answer()["problem"]


def test_hardware_is_read_from_what_linux_has(tmp_path: Path) -> None:
    text = "processor\t: 0\nmodel name\t: Xeon\nflags\t\t: fpu avx2 avx512f avx512_vnni amx_int8\n\nprocessor\t: 1\n"
    found = read_cpuinfo(text, 3)
    assert (found.name, found.cores) == ("Xeon", 3)
    assert found.instructions == ("AVX2", "AVX-512", "AVX-512 VNNI", "AMX int8")
    assert read_cpuinfo("nothing", 1).instructions is None
    for number, content in enumerate((("0x030000", "0x1002", "0x73bf"), ("0x020000", "0x8086", "0x1"))):
        folder = tmp_path / str(number)
        folder.mkdir()
        for name, value in zip(("class", "vendor", "device"), content):
            (folder / name).write_text(value + "\n")
    (tmp_path / "odd").mkdir()
    assert [(one.vendor, one.name) for one in read_pci(tmp_path)] == [("AMD", "PCI device 0x73bf")]
    assert [vendor_in(name) for name in ("AMD Radeon RX", "Intel(R) Iris", "NVIDIA T4", "Microsoft Basic")] == [
        *("AMD", "Intel", "NVIDIA", "")
    ]


def test_the_cache_is_where_training_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    from platformdirs import user_cache_dir

    monkeypatch.delenv("SMALTI_CACHE_DIR")
    assert cache_folder() == Path(user_cache_dir("smalti"))


def test_here_it_says_all_as_json_and_imports_nothing_heavy(python, cache_dir: Path) -> None:
    code = """
from smalti.cli.main import _run
code = _run(["doctor", "--json"])
heavy = {"torch", "triton", "onnx", "tensorrt", "tensorrt_rtx", "onnxruntime"} & {*sys.modules}
print(*heavy, file=sys.stderr)
sys.exit(code)
"""
    start = time.monotonic()
    done = python(code)
    seconds = time.monotonic() - start
    assert done.returncode == 0, done.stderr
    assert done.stderr.strip() == ""
    assert seconds < 20  # under 2 on an idle machine
    report = json.loads(done.stdout)
    assert report.keys() == {"facts", "findings", "draws_with", "install"}
    assert report["facts"].keys() == Machine.__dataclass_fields__.keys()
    assert report["install"].keys() == {"extra", "why", "uninstall", "line"}
    assert "cpu" in report["draws_with"]
    assert report["facts"]["problems"] == []
    assert report["facts"]["caches"][0]["path"] == str(cache_dir)
    assert {one["verdict"] for one in report["findings"]} <= {"ok", "warn", "missing"}
