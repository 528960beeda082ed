"""``smalti doctor``: planted machines by their facts alone."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import asdict, replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from helpers.machines import (
    AMD_CARD,
    GTX_1080,
    MACHINES,
    NVIDIA_CARD,
    RTX_3060,
    RTX_5090,
    V100,
    cuda_libraries,
    machine,
    onnxruntime_gpu,
    with_driver,
)
from smalti.cli.main import _run
from smalti.verification.doctor.facts import Driver, Folder, Machine, OnnxRuntime, Vulkan, VulkanDevice
from smalti.verification.doctor.finding import Finding
from smalti.verification.doctor.findings import conclude, draws_with
from smalti.verification.doctor.install import WANTED, WHEELS, choose, runs, shell_line
from test_extras import PROJECT, Requirement, versions

each_machine = pytest.mark.parametrize("found", MACHINES.values(), ids=MACHINES)
SHELL = re.compile(r"^(python|uv) .*\b(install|uninstall)\b")


def told(found: Machine, topic: str, verdict: str | None = None) -> Finding:
    """The only finding of a topic, or its only one with a verdict."""
    (one,) = [one for one in conclude(found) if one.topic == topic and verdict in (None, one.verdict)]
    return one


def providers(found: Machine) -> list[str]:
    return draws_with(found, conclude(found))


@each_machine
def test_whatever_the_machine_there_is_a_line_for_all_and_a_remedy_where_something_is_wrong(found: Machine) -> None:
    findings = conclude(found)
    topics = {
        "Python",
        "system",
        "smalti",
        "processor",
        "NVIDIA driver",
        "ONNX Runtime",
        "Vulkan",
        "WebGPU",
        "TensorRT",
    }
    assert topics | {"CUDA libraries", "engines"} <= {one.topic for one in findings}
    for one in findings:
        assert (one.verdict == "ok") == (one.remedy == ""), one
        assert one.text
    json.dumps(asdict(found))


@settings(deadline=None, max_examples=60, suppress_health_check=list(HealthCheck))
@given(st.from_type(Machine))
def test_no_facts_are_too_odd_for_it(found: Machine) -> None:
    findings = conclude(found)
    assert all((one.verdict == "ok") == (one.remedy == "") for one in findings)
    assert set(draws_with(found, findings)) <= {"cuda", "rtx", "trt", "webgpu", "cpu"}
    assert choose(found).line


@each_machine
def test_every_pip_line_names_extras_and_packages_that_exist(found: Machine) -> None:
    choice = choose(found)
    remedies = [line for one in conclude(found) for line in one.remedy.splitlines()]
    lines = [line for line in (choice.uninstall, choice.line, *remedies) if SHELL.match(line)]
    assert lines
    for line in lines:
        words = shlex.split(line)
        if "uninstall" in words:
            packages = words[words.index("uninstall") + 1 :]
            assert {*packages} - {"-y"} <= {*WHEELS, "nvidia-cudnn-cu12", "nvidia-cudnn-cu13"}
            continue
        (name,) = [word for word in words if word.startswith("smalti[")]
        extras = Requirement(name).extras
        assert "cli" in extras
        assert extras <= PROJECT["optional-dependencies"].keys(), line


@pytest.mark.slow  # asks the package index
@pytest.mark.parametrize("extra", [extra for extra in WANTED if extra in PROJECT["optional-dependencies"]])
def test_what_the_pip_lines_install_is_on_the_index(extra: str) -> None:
    if not versions("numpy", "Linux"):
        pytest.skip("needs a package index")
    for line in PROJECT["optional-dependencies"][extra]:
        needed = Requirement(line)
        there = versions(needed.name, "Linux")
        assert any(map(needed.specifier.contains, there)), f"{needed}: there is {there[:5]}"


def test_each_extra_brings_the_wheel_that_the_doctor_thinks() -> None:
    for extra, wheel in WANTED.items():
        if extra in PROJECT["optional-dependencies"]:
            names = {Requirement(line).name for line in PROJECT["optional-dependencies"][extra]}
            assert names & {*WHEELS} == {wheel}


def test_without_a_gpu_the_cpu_draws() -> None:
    found = machine()
    assert {one.verdict for one in conclude(found)} == {"ok"}
    assert providers(found) == ["cpu"]
    assert choose(found) == ("cpu", "no GPU was found", "", 'python -m pip install "smalti[cli,cpu]"')
    assert "does not say that they can be loaded" in told(found, "providers").text


def test_two_wheels_are_told_with_the_lines_that_mend_it() -> None:
    found = MACHINES["both wheels"]
    one = told(found, "ONNX Runtime")
    assert one.verdict == "warn"
    assert one.text.startswith("onnxruntime 1.31.1 and onnxruntime-gpu 1.31.1 overwrite each other")
    assert one.remedy.splitlines() == [
        "python -m pip uninstall -y onnxruntime onnxruntime-gpu",
        'python -m pip install "smalti[cli,cu13]"',
    ]
    assert choose(found).uninstall == one.remedy.splitlines()[0]
    broken = replace(found, onnxruntime=OnnxRuntime(problem="ImportError: no capi"))
    assert told(broken, "ONNX Runtime").verdict == "missing"
    assert providers(broken) == []


def test_the_wrong_wheel_is_removed_before_the_right_one_comes() -> None:
    plain = with_driver(machine(), RTX_3060)
    one = told(plain, "ONNX Runtime")
    assert one.verdict == "warn"
    assert "GPUs stay idle" in one.text
    assert one.remedy.splitlines()[0] == "python -m pip uninstall -y onnxruntime"
    no_gpu = onnxruntime_gpu(machine(), "1.31.1")
    assert choose(no_gpu).uninstall == "python -m pip uninstall -y onnxruntime-gpu"
    assert told(no_gpu, "CUDA libraries").verdict == "ok"
    assert told(no_gpu, "ONNX Runtime").verdict == "ok"


def test_a_missing_cudnn_is_named_with_its_package() -> None:
    one = told(MACHINES["no cuDNN"], "CUDA libraries")
    assert one.verdict == "missing"
    assert one.text == "for CUDA 13 there is no cudnn (nvidia-cudnn-cu13 brings libcudnn.so.9)"
    assert one.remedy == 'python -m pip install "smalti[cli,cu13]"'
    assert providers(MACHINES["no cuDNN"]) == ["cpu"]
    assert providers(MACHINES["RTX 30"]) == ["cuda", "cpu"]
    assert "cudnn 9.14" in told(MACHINES["RTX 30"], "CUDA libraries").text


def test_libraries_of_the_other_cuda_do_not_count() -> None:
    found = replace(MACHINES["RTX 30"], cuda_libraries=cuda_libraries(12))
    one = told(found, "CUDA libraries")
    assert all(
        f"no {name} " in one.text for name in ("cudart", "cublas", "cublasLt", "curand", "cufft", "cudnn", "nvrtc")
    )
    of_system = tuple(replace(one, package="") for one in cuda_libraries(13))
    assert "cudart 13.0 of the system" in told(replace(found, cuda_libraries=of_system), "CUDA libraries").text


def test_pascal_with_cuda_13_is_told_and_gets_cu12() -> None:
    found = MACHINES["Pascal with CUDA 13"]
    one = told(found, "ONNX Runtime's code")
    assert one.verdict == "missing"
    assert "for CUDA 13, which has no code for NVIDIA GeForce GTX 1080 Ti (compute capability 6.1)" in one.text
    assert one.remedy == 'python -m pip install "smalti[cli,cu12]"'
    assert "runs the kernels sm_61" in told(found, "GPU").text
    assert (
        "TensorRT-RTX does not run on NVIDIA GeForce GTX 1080 Ti"
        in told(replace(found, packages=(*found.packages, ("tensorrt-rtx", "1.7.1"))), "TensorRT").text
    )
    assert providers(found) == ["cpu"]


@pytest.mark.parametrize(("version", "fine"), [("9.10.2.21", True), ("9.11.0.98", False), ("9.8.0.87", True)])
def test_pascal_takes_no_cudnn_after_9_10(version: str, fine: bool) -> None:
    found = onnxruntime_gpu(with_driver(machine(), GTX_1080), "1.26.0", cudnn=version)
    bad = [one for one in conclude(found) if one.topic == "cuDNN"]
    assert [one.verdict for one in bad] == ([] if fine else ["missing"])
    assert providers(found) == (["cuda", "cpu"] if fine else ["cpu"])
    assert choose(found).extra == "cu12"
    newer = onnxruntime_gpu(with_driver(machine(), RTX_3060), "1.26.0", cudnn=version)
    assert not [one for one in conclude(newer) if one.topic == "cuDNN"]


def test_two_cudnn_packages_overwrite_each_other() -> None:
    found = MACHINES["RTX 30"]
    found = replace(
        found, packages=(*found.packages, ("nvidia-cudnn-cu12", "9.10.2.21"), ("nvidia-cudnn-cu13", "9.14"))
    )
    one = told(found, "cuDNN")
    assert one.remedy.splitlines()[0] == "python -m pip uninstall -y nvidia-cudnn-cu12 nvidia-cudnn-cu13"


def test_two_gpus_of_different_generations_get_what_serves_both() -> None:
    found = MACHINES["two GPUs"]
    texts = [one.text for one in conclude(found) if one.topic == "GPU"]
    assert ["sm_61" in texts[0], "sm_86" in texts[1]] == [True, True]
    assert texts[1].startswith("1: NVIDIA GeForce RTX 3060, compute capability 8.6, 12.0 GiB")
    assert choose(found)[:2] == ("cu12", "ONNX Runtime for CUDA 13 has no code for NVIDIA GeForce GTX 1080 Ti")
    covered = [one.verdict for one in conclude(found) if one.topic == "ONNX Runtime's code"]
    assert covered == ["missing", "ok"]
    assert providers(found) == ["cuda", "cpu"]


@pytest.mark.parametrize(
    ("cuda", "gpus", "extra"),
    [
        ((13, 0), (RTX_3060,), "cu13"),
        ((13, 1), (RTX_5090, RTX_3060), "cu13"),
        ((12, 8), (RTX_3060,), "cu12"),
        ((12, 0), (RTX_3060,), "cu12"),
        ((13, 0), (GTX_1080,), "cu12"),
        ((13, 0), (V100,), "cpu"),
        ((11, 8), (RTX_3060,), "cpu"),
        ((13, 0), (replace(RTX_5090, capability=100),), "cu12"),
    ],
)
@pytest.mark.parametrize("system", ["Linux", "Windows"])
def test_the_extra_follows_from_gpus_and_driver(cuda, gpus, extra, system) -> None:
    found = with_driver(machine(system), *gpus, cuda=cuda)
    assert choose(found).extra == extra


def test_a_gpu_without_kernels_is_told() -> None:
    one = told(with_driver(machine(), V100), "GPU")
    assert (one.verdict, one.remedy) == ("missing", "use provider cpu, or another GPU")
    assert "smalti has no kernels for it" in one.text
    lost = replace(with_driver(machine(), RTX_3060), kernels=("sm_75",))
    assert "its kernels sm_86 are missing" in told(lost, "GPU").text
    compiled = with_driver(machine(), replace(RTX_5090, capability=103))
    assert "ptx_80, which the driver compiles" in told(compiled, "GPU").text


def test_a_driver_that_is_too_old_is_told() -> None:
    found = MACHINES["old driver"]
    one = told(found, "NVIDIA driver")
    assert one.verdict == "missing"
    assert one.text == "470.256.02, for CUDA 11.4, is too old: smalti's kernels need CUDA 12.0"
    assert one.remedy.startswith("install NVIDIA driver 580 or newer")
    assert "too old" in told(found, "GPU").text
    assert choose(found).extra == "cpu"
    younger = onnxruntime_gpu(with_driver(machine(), RTX_3060, cuda=(12, 4)), "1.31.1")
    one = told(younger, "ONNX Runtime's code")
    assert one.text == "onnxruntime-gpu 1.31.1 is for CUDA 13, and the driver supports CUDA 12.4"
    assert one.remedy.splitlines()[0] == 'python -m pip install "smalti[cli,cu12]"'
    assert providers(younger) == ["cpu"]


def test_a_broken_driver_and_a_hidden_gpu_are_told() -> None:
    broken = replace(machine(), driver=Driver(problem="libcuda.so.1: file too short"))
    assert told(broken, "NVIDIA driver").text == "its library is broken: libcuda.so.1: file too short"
    bare = replace(machine(), adapters=(NVIDIA_CARD,))
    assert told(bare, "NVIDIA driver").text == "there is an NVIDIA card, and no driver"
    hidden = Driver("libcuda.so.1", "CUDA_ERROR_NO_DEVICE (100)", "580.95.05", (13, 0))
    one = told(replace(machine(), driver=hidden, visible="-1"), "NVIDIA driver")
    assert one.remedy == "unset CUDA_VISIBLE_DEVICES, which is '-1' and hides GPUs"
    other = replace(hidden, problem="CUDA_ERROR_SYSTEM_DRIVER_MISMATCH (803)")
    assert "restart the machine" in told(replace(machine(), driver=other), "NVIDIA driver").remedy


def test_a_missing_onnx_runtime_is_told_and_nothing_draws() -> None:
    found = MACHINES["no ONNX Runtime"]
    one = told(found, "ONNX Runtime")
    assert (one.verdict, one.remedy) == ("missing", 'python -m pip install "smalti[cli,cpu]"')
    assert providers(found) == []
    windows = replace(machine("Windows"), onnxruntime=OnnxRuntime(problem="ImportError: DLL load failed"))
    assert "Visual C++ Redistributable" in told(windows, "ONNX Runtime").remedy


def test_an_amd_gpu_gets_webgpu_where_smalti_has_it_and_vulkan_is_asked_for() -> None:
    found = replace(machine(), adapters=(AMD_CARD,))
    extras = ("cli", "cpu", "cu12", "cu13", "webgpu")
    with_it = replace(found, smalti=replace(found.smalti, extras=extras))
    without = replace(found, smalti=replace(found.smalti, extras=extras[:-1]))
    assert choose(with_it)[:2] == ("webgpu", "AMD GPU, and no GPU for CUDA")
    assert told(with_it, "WebGPU").verdict == "missing"
    assert choose(without).extra == "cpu"
    one = told(with_it, "Vulkan")
    assert one.verdict == "missing"
    assert "apt-get install libvulkan1" in one.remedy
    assert told(machine(), "Vulkan").verdict == "ok"
    ready = replace(
        with_it,
        vulkan=Vulkan("libvulkan.so.1", devices=(VulkanDevice("RADV", "discrete GPU"),)),
        packages=(("onnxruntime", "1.31.1"), ("onnxruntime-ep-webgpu", "0.4.0")),
    )
    assert providers(ready) == ["webgpu", "cpu"]
    old = replace(ready, onnxruntime=replace(ready.onnxruntime, version="1.23.0"))
    assert "needs ONNX Runtime 1.24.4" in told(old, "WebGPU").text
    software = replace(ready, vulkan=Vulkan("libvulkan.so.1", devices=(VulkanDevice("SwiftShader", "CPU"),)))
    assert told(software, "WebGPU").verdict == "warn"
    assert providers(software) == ["cpu"]


def test_windows_has_its_own_names_and_quotes() -> None:
    found = MACHINES["Windows"]
    assert told(found, "Vulkan").text == "not needed: WebGPU uses D3D12 here"
    one = told(found, "CUDA libraries")
    assert "no cudnn (nvidia-cudnn-cu13 brings cudnn64_9.dll)" in one.text
    assert "nvrtc64_130_0.dll" in one.text
    assert choose(found).line == 'python -m pip install "smalti[cli,cu13]"'
    elsewhere = replace(found, python=replace(found.python, command=r"C:\My Tools\python.exe"))
    assert choose(elsewhere).line == r'& "C:\My Tools\python.exe" -m pip install "smalti[cli,cu13]"'
    cmd = replace(elsewhere, system=replace(found.system, shell="cmd"))
    assert choose(cmd).line == r'"C:\My Tools\python.exe" -m pip install "smalti[cli,cu13]"'


@pytest.mark.parametrize("word", ["plain", "a b", "smalti[cli,cpu]", "it's", "$HOME", "`id`", 'a"b', "a\\b", "!x", "*"])
def test_a_shell_reads_the_words_that_were_meant(word: str) -> None:
    assert shlex.split(shell_line([word, "x"], "posix")) == [word, "x"]
    if sh := shutil.which("sh"):
        done = subprocess.run([sh, "-c", shell_line(["printf", "%s", word], "posix")], capture_output=True, text=True)
        assert done.stdout == word


def test_the_line_installs_from_where_smalti_came_and_with_what_is_there() -> None:
    found = machine()
    editable = replace(found, smalti=replace(found.smalti, source="/my house", editable=True))
    assert choose(editable).line == 'python -m pip install -e "/my house[cli,cpu]"'
    wheel = replace(found, smalti=replace(found.smalti, source="https://example.org/smalti.whl"))
    assert choose(wheel).line == 'python -m pip install "smalti[cli,cpu] @ https://example.org/smalti.whl"'
    no_pip = replace(found, python=replace(found.python, pip=False))
    assert choose(no_pip).line == 'uv pip install --python /usr/bin/python "smalti[cli,cpu]"'


def test_odd_pythons_and_systems_are_told() -> None:
    found = machine()
    assert told(replace(found, python=replace(found.python, bits=32)), "Python").verdict == "missing"
    old = replace(found, python=replace(found.python, version=(3, 10, 2)))
    assert told(old, "Python").remedy == "install Python 3.11 or newer"
    musl = replace(found, system=replace(found.system, libc="musl", libc_version=""))
    assert told(musl, "system").verdict == "missing"
    ancient = replace(found, system=replace(found.system, libc_version="2.17"))
    assert told(ancient, "system").verdict == "warn"
    arm = with_driver(replace(found, system=replace(found.system, machine="aarch64")), RTX_3060)
    assert choose(arm).extra == "cpu"
    assert "no CUDA wheels" in told(arm, "GPU").text
    slow = replace(found, processor=replace(found.processor, instructions=()))
    assert told(slow, "processor").verdict == "warn"
    assert told(replace(found, problems=("x: y",)), "doctor").verdict == "warn"
    caches = (Folder("/c/smalti", 2_000_000_000), Folder("/c/smalti/engines", 150_000_000, whole=False))
    assert told(replace(found, caches=caches), "caches").text == "/c/smalti: 2.0 GB (engines more than 150.0 MB)"


def test_wheels_run_on_the_generations_that_they_were_measured_to_have_code_for() -> None:
    assert [one for one in (61, 70, 75, 86, 90, 100, 120) if runs(13, one)] == [75, 86, 90, 120]
    assert [one for one in (52, 61, 75, 86, 90, 100, 120) if runs(12, one)] == [61, 75, 86, 90, 100, 120]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run a command in this process; (exit code, stdout, stderr). No bundle is needed."""
    return lambda *words: (_run([*words]), *capsys.readouterr())


def test_without_onnx_runtime_it_exits_with_4_and_still_says_all(run, monkeypatch) -> None:
    monkeypatch.setattr("smalti.cli.doctor.gather", lambda **named: MACHINES["no ONNX Runtime"])
    code, said, error = run("doctor")
    assert (code, error) == (4, "")
    assert "missing  ONNX Runtime" in said
    assert "smalti draws" not in said
    assert said.splitlines()[-1] == '    python -m pip install "smalti[cli,cpu]"'
    assert json.loads(run("doctor", "--json")[1])["draws_with"] == []


@each_machine
def test_every_machine_is_printed(found: Machine, run, monkeypatch) -> None:
    monkeypatch.setattr("smalti.cli.doctor.gather", lambda **named: found)
    code, said, _ = run("doctor")
    assert code == (0 if providers(found) else 4)
    assert said.count("\n") >= len(conclude(found))
