"""The command line when something is wrong: the exit code, what is said, and that nothing is left half-written."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from helpers.hints import Hints
from smalti import DamagedKernel, DriverError, DriverUnavailable, KernelError, NoMatchingKernel
from smalti.verification.doctor.safe_driver import safe_driver


def names(folder: Path) -> list[str]:
    """Everything in a folder, hidden and partial files as well."""
    return sorted(str(file.relative_to(folder)) for file in folder.rglob("*"))


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["--label", "unicorns"], 2, "label 'unicorns': this bundle knows lorelei, notionists"),
        (["--steps", "0"], 2, "steps 0"),
        (["--count", "200000"], 2, "at most 131072 images in one call; draw them in several calls"),
        (["--seed", "-1"], 2, "seed -1: allowed are 0"),
        (["--seed", "many"], 2, "--seed"),
        (["--count", "0"], 2, "count 0: at least 1 image"),
        (["--columns", "0"], 2, "columns 0: at least 1"),
        (["--temperature", "nan"], 2, "temperature nan"),
        (["--guidance", "-1"], 2, "guidance -1"),
        (["--schedule", "even"], 2, "allowed are exact, cosine and binomial"),
        (["--order", "raster"], 2, "allowed are random, halton and confidence"),
        (["--order", "confidence", "--schedule", "binomial"], 2, "schedule binomial draws its own order"),
        (["--order", "confidence", "--remask", "0.5"], 2, "order confidence decides itself"),
        (["--choice-temperature", "2"], 2, "choice_temperature 2.0: it belongs to order confidence"),
        (["--remask", "some"], 2, "remask 'some': allowed are 0 .. 1 and mlm"),
        (["--remask", "1.5"], 2, "remask 1.5: allowed are 0 .. 1 and mlm"),
        (["--size", "large"], 2, "size 'large': width x height in pixels are needed, such as 512x256"),
        (["--size", "128"], 2, "such as 512x256"),
        (["--size", "100x64"], 2, "size 100x64: sides must be multiples of 16; the nearest is 96x64"),
        (["--size", "128x64", "--stride", "9"], 2, "stride 9: allowed are 1 .. 4 tokens"),
        (["--top-k", "-2"], 2, "top_k -2"),
        (["--top-p", "0"], 2, "top_p 0"),
        (["--precision", "fp4"], 2, "allowed are auto, fp32, fp16, int8"),
        (["--threads", "0"], 2, "threads 0"),
        (["--provider", "nonsense"], 2, "provider 'nonsense': allowed are auto, cpu, cuda, rtx, trt and webgpu"),
        (["--unheard-of"], 2, "--unheard-of"),
        (["--bundle", "nonesuch"], 3, "no bundle at nonesuch"),
    ],
)
@pytest.mark.parametrize("target", ["a.png", "new/"])
def test_a_refusal_has_its_exit_code_says_why_and_writes_nothing(target, arguments, code, says, run, out):
    got, said, error = run("generate", "-o", f"{out}/{target}", *arguments)
    assert got == code
    assert says in error
    assert "smalti.Limits" not in error  # the command cannot set them
    assert said == ""
    assert names(out) == []


@pytest.mark.parametrize(
    ("line", "code", "says"),
    [
        (["paint"], 2, "paint"),
        (["generate"], 2, "--output"),
        (["generate", "-o", "a.bmp"], 2, "name a file that ends in .png, .jpg, .jpeg or .webp, or a folder"),
        (["bench", "--repeats", "0"], 2, "repeats 0"),
        (["decode", "missing.npy", "-o", "a.png"], 2, "missing.npy does not exist"),
        (["decode", "empty.npy", "-o", "a.png"], 2, "empty.npy is not a .npy of integers"),
        (["decode", "pickle.npy", "-o", "a.png"], 2, "pickle.npy is not a .npy of integers"),
        (["decode", "float.npy", "-o", "a.png"], 2, "tokens must be integers"),
        (["encode", "missing.png", "-o", "t.npy"], 2, "missing.png does not exist"),
        (["encode", "empty.npy", "-o", "t.txt"], 2, "name a file that ends in .npy"),
        (["embed", "missing.png", "-o", "t.npy"], 2, "missing.png does not exist"),
        (["embed", "empty.npy", "-o", "t.txt"], 2, "name a file that ends in .npy"),
    ],
)
def test_other_mistakes_are_told_as_well(line, code, says, run, out, monkeypatch):
    monkeypatch.chdir(out)
    (out / "empty.npy").touch()
    np.save(out / "float.npy", np.zeros((4, 4)))
    np.save(out / "pickle.npy", np.array([{}], object), allow_pickle=True)
    before = names(out)
    got, said, error = run(*line)
    assert got == code
    assert says in error
    assert said == ""
    assert names(out) == before


@pytest.mark.parametrize("kind", [KernelError, DriverUnavailable, NoMatchingKernel, DamagedKernel, DriverError])
def test_a_kernel_that_cannot_run_is_a_provider_that_cannot(kind, run, out, monkeypatch):
    def fail(*arguments: object, **options: object) -> None:
        raise kind("what was wrong", "what to do about it")

    monkeypatch.setattr("smalti_kernels.api.IMPLEMENTATIONS", {"numpy": fail})
    got, said, error = run("generate", "-o", f"{out}/a.png")
    assert (got, said) == (4, "")
    assert error.strip().splitlines()[-1] == "smalti: what was wrong; what to do about it"
    assert names(out) == []


@pytest.mark.skipif(safe_driver()[0] is not None, reason="this machine has a GPU")
@pytest.mark.parametrize("provider", ["cuda", "rtx", "trt"])
def test_a_gpu_that_is_not_there_is_told_at_once(provider, command, tiny_bundle, out):
    started = time.monotonic()
    done = command("generate", "-o", out / "a.png", "--bundle", tiny_bundle, "--provider", provider)
    assert done.returncode == 4
    assert time.monotonic() - started < 10  # 2 s are promised, of a machine that does nothing else
    assert f"smalti: provider {provider} cannot run here: there is no NVIDIA driver" in done.stderr
    assert "use provider cpu" in done.stderr
    assert names(out) == []


def test_the_real_command_exits_with_these_codes_and_shows_no_traceback(command, tiny_bundle, out):
    common = ["generate", "-o", out / "a.png"]
    for arguments, code in ((["--steps", 0], 2), (["--nope"], 2), (["--provider", "rtx"], 4), (["--bundle", "x"], 3)):
        done = command(*common, *([] if "--bundle" in arguments else ["--bundle", tiny_bundle]), *arguments)
        assert done.returncode == code
        assert done.stderr
        assert "Traceback" not in done.stderr
    assert names(out) == []


def test_a_damaged_bundle_is_refused_by_the_damaged_files_name(run, out, copied):
    file = copied / "denoiser.int8.onnx"
    file.write_bytes(file.read_bytes()[:-1] + b"!")
    code, _, error = run("generate", "-o", out / "a.png", "--bundle", copied)
    assert code == 3
    assert "denoiser.int8.onnx is damaged" in error
    assert names(out) == []


@pytest.mark.parametrize("target", ["missing/a.png", "file/a.png", "folder.png/../file/", "file/deep/"])
def test_an_output_that_cannot_be_written_is_refused_before_the_work(target, run, out):
    (out / "file").write_text("kept")
    (out / "folder.png").mkdir()
    # A bundle that does not exist would be the next thing to be found out.
    code, _, error = run("generate", "-o", f"{out}/{target}", "--bundle", "nonesuch")
    assert code == 1
    assert "cannot write" in error
    assert names(out) == ["file", "folder.png"]
    assert (out / "file").read_text() == "kept"


def test_a_disk_that_fills_up_leaves_the_old_picture(tiny_bundle, out, python):
    pytest.importorskip("resource")
    (out / "a.png").write_bytes(b"old")
    code = """
import resource
from smalti.cli.main import main
resource.setrlimit(resource.RLIMIT_FSIZE, (500, 500))
main(sys.argv[1:])
"""
    done = python(code, "generate", "-o", out / "a.png", "--bundle", tiny_bundle)
    assert done.returncode == 1
    assert "cannot write" in done.stderr
    assert "Traceback" not in done.stderr
    assert (out / "a.png").read_bytes() == b"old"
    assert names(out) == ["a.png"]


def test_the_provider_may_come_from_the_environment(run, out, monkeypatch):
    monkeypatch.setenv("SMALTI_PROVIDER", "cuda")
    code, _, error = run("generate", "-o", out / "a.png")
    assert code == 4
    assert "provider cuda" in error
    assert run("generate", "-o", out / "a.png", "--provider", "cpu")[0] == 0


@pytest.mark.parametrize(
    ("blocked", "line", "code", "says"),
    [
        ("typer", ["generate", "-o", "a.png"], 1, "the command line needs typer; {cli}"),
        ("typer", ["train", "--help"], 1, "smalti train needs typer; {cli}"),
        ("torch", ["train", "prior", "--run", "x"], 1, "smalti train needs torch; {train}"),
        ("torch", ["import", "x", "--source", "vqddm", "-o", "y"], 1, "smalti import needs torch; {train}"),
        ("torch", ["evaluate", "x"], 1, "smalti evaluate needs torch; {evaluate}"),
        ("onnx", ["export", "run", "-o", "x"], 1, "smalti export needs onnx; {export}"),
        ("onnx", ["engine", "build", "-o", "x"], 1, "smalti engine build needs onnx; {engines}"),
        ("onnxruntime", ["export", "run", "-o", "x"], 1, "smalti export needs onnxruntime; {cpu}"),
        ("onnxruntime", ["generate", "-o", "a.png"], 4, "{cpu}"),
    ],
)
def test_a_missing_extra_is_named_with_its_pip_line(blocked, line, code, says, tiny_bundle, python, tmp_path):
    bundle = ["--bundle", tiny_bundle] if line[0] == "generate" else []
    done = python("from smalti.cli.main import main\nmain(sys.argv[1:])", *line, *bundle, blocked=(blocked,))
    assert done.returncode == code, done.stderr
    assert says.format_map(Hints()) in done.stderr
    assert "Traceback" not in done.stderr
    assert names(tmp_path) == []


@pytest.mark.skipif(sys.platform == "win32", reason="SIGINT to another process is POSIX")
def test_an_interrupt_in_the_middle_exits_with_130_and_leaves_nothing(tiny_bundle, out):
    # A shell that starts jobs in the background has them ignore SIGINT, and so would this process.
    code = """
import signal, sys
import onnxruntime, smalti.cli.commands
from smalti.cli.main import main
signal.signal(signal.SIGINT, signal.default_int_handler)
print("ready", flush=True)
main(sys.argv[1:])
"""
    line = ["generate", "-o", f"{out}/a.png", "--count", "100000", "--bundle", str(tiny_bundle)]
    with subprocess.Popen(
        [sys.executable, "-c", code, *line], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        time.sleep(1.5)
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        said, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert said == ""
    assert error.strip().endswith("smalti: interrupted")
    assert "Traceback" not in error
    assert names(out) == []


@pytest.mark.skipif(sys.platform == "win32", reason="SIGTERM to another process is POSIX")
def test_a_terminated_command_leaves_no_temporary_folder(tmp_path):
    code = """
import sys, tempfile, time
from smalti.cli import main as cli
def slow(arguments):
    with tempfile.TemporaryDirectory(dir=arguments[0]):
        print("ready", flush=True)
        time.sleep(60)
cli._run = slow
cli.main(sys.argv[1:])
"""
    with subprocess.Popen(
        [sys.executable, "-c", code, tmp_path], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        assert len(names(tmp_path)) == 1
        process.terminate()
        _, error = process.communicate(timeout=60)
    assert (process.returncode, error) == (143, "smalti: terminated\n")
    assert names(tmp_path) == []
