"""Every call that smalti makes of TensorRT-RTX and TensorRT exists in their real Python bindings, with its parameters.

TensorRT-RTX is installed whole. Of TensorRT there are the bindings alone; libraries that do nothing let them load.
"""

from __future__ import annotations

import inspect
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from importlib import util
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from helpers import fake_tensorrt_runtime as fakes
from helpers.house import HOUSE

CALLS = {
    "Runtime": (["deserialize_cuda_engine(serialized_engine)"], ["get_engine_validity(buffer)"]),
    "ICudaEngine": (
        [
            "num_io_tensors",
            "num_optimization_profiles",
            "get_tensor_name(index)",
            "get_tensor_mode(name)",
            "get_tensor_dtype(name)",
            "get_tensor_shape(name)",
            "get_tensor_profile_shape(name, profile_index)",
            "create_execution_context(strategy)",
        ],
        ["create_runtime_config()", "create_execution_context(runtime_config)"],
    ),
    "IExecutionContext": (
        [
            "set_optimization_profile_async(profile_index, stream_handle)",
            "set_input_shape(name, shape)",
            "set_tensor_address(name, memory)",
            "infer_shapes()",
            "get_tensor_shape(name)",
            "execute_async_v3(stream_handle)",
        ],
        [],
    ),
    "IRuntimeConfig": (
        [],
        [
            "create_runtime_cache()",
            "set_runtime_cache(cache)",
            "set_execution_context_allocation_strategy(strategy)",
            "cuda_graph_strategy",
            "dynamic_shapes_kernel_specialization_strategy",
        ],
    ),
    "IRuntimeCache": ([], ["serialize()", "deserialize(blob)"]),
    "Builder": (
        [
            "create_network(flags)",
            "create_builder_config()",
            "create_optimization_profile()",
            "build_serialized_network(network, config)",
        ],
        [],
    ),
    "OnnxParser": (["parse_from_file(model)", "num_errors", "get_error(index)"], []),
    "ParserError": (["desc()"], []),
    "INetworkDefinition": (["num_inputs", "get_input(index)"], []),
    "IBuilderConfig": (
        ["clear_flag(flag)", "add_optimization_profile(profile)", "progress_monitor"],
        ["num_compute_capabilities", "set_compute_capability(compute_capability, index)"],
    ),
    "IOptimizationProfile": (["set_shape(input, min, opt, max)"], []),
    "IProgressMonitor": (
        [
            "phase_start(phase_name, parent_phase, num_steps)",
            "step_complete(phase_name, step)",
            "phase_finish(phase_name)",
        ],
        [],
    ),
    "ExecutionContextAllocationStrategy": (["ON_PROFILE_CHANGE"], []),
    "ILogger": (["ERROR", "INTERNAL_ERROR"], []),
    "TensorIOMode": (["INPUT"], []),
    "NetworkDefinitionCreationFlag": (["STRONGLY_TYPED"], []),
    "BuilderFlag": (["TF32"], []),
    "EngineValidity": ([], ["INVALID"]),
    "EngineInvalidityDiagnostics": ([], ["VERSION_MISMATCH", "UNSUPPORTED_CC", "OLD_CUDA_DRIVER"]),
    "CudaGraphStrategy": ([], ["DISABLED", "WHOLE_GRAPH_CAPTURE"]),
    "DynamicShapesKernelSpecializationStrategy": ([], ["EAGER"]),
    "ComputeCapability": ([], ["SM75", "SM86", "SM89", "SM120"]),
}
"""By class what is called with which parameters: of both runtimes, and of TensorRT-RTX alone."""
PROJECT = tomllib.loads((HOUSE / "pyproject.toml").read_text("utf-8"))["project"]
RUNNING = next(one for one in PROJECT["optional-dependencies"]["rtx"] if one.startswith("tensorrt-rtx"))
SHOW = """
import importlib, json, sys
trt = importlib.import_module(sys.argv[1])
shown = {"version": trt.__version__, "nptype": callable(trt.nptype)}
for kind in sys.argv[2:]:
    found = getattr(trt, kind, None)
    shown[kind] = None if found is None else {
        name: getattr(found, name).__doc__ if callable(getattr(found, name)) else "attribute" for name in dir(found)
    }
print(json.dumps(shown))
"""
ARGUMENT = re.compile(r"\s*(\w+)\s*(?::|$)")


def shown(module: str, **environment: str) -> dict:
    command = [sys.executable, "-c", SHOW, module, *CALLS]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=os.environ | environment)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def accepts(documented: str, call: str) -> bool:
    """Whether one of a function's documented overloads takes these parameters; an attribute has none."""
    name, bracket, rest = call.partition("(")
    if not bracket:
        return documented == "attribute" or "(" not in documented.partition("\n")[0]
    given = [word.strip() for word in rest.rstrip(")").split(",") if word.strip()]
    for line in documented.splitlines():
        found = re.search(rf"\b{name}\((?:self: [\w.:]+(?:, )?)?(.*)\) -> ", line)
        if found is None:
            continue
        parts = re.split(r",\s*(?=\w+\s*:)", found[1]) if found[1] else []
        names = [match[1] for part in parts if (match := ARGUMENT.match(part))]
        needed = [one for one, part in zip(names, parts) if "=" not in part]
        if given == names[: len(given)] and set(needed) <= set(given):
            return True
    return False


def lacking(real: dict, portable: bool) -> list[str]:
    found: list[str] = []
    for kind, (both, rtx) in CALLS.items():
        calls = [*both, *(rtx if portable else [])]
        if calls and real[kind] is None:
            found.append(kind)
            continue
        found += [
            f"{kind}.{call}"
            for call in calls
            if not accepts((real[kind] or {}).get(call.partition("(")[0]) or "", call)
        ]
    return found


@pytest.fixture(scope="module")
def rtx() -> dict:
    pytest.importorskip("tensorrt_rtx", reason='needs TensorRT-RTX: pip install "smalti[engines]"')
    return shown("tensorrt_rtx")


@pytest.fixture(scope="module")
def trt(tmp_path_factory) -> dict:
    if util.find_spec("tensorrt_bindings") is None:
        pytest.skip("needs TensorRT's bindings: pip install tensorrt-cu12-bindings")
    return shown("tensorrt_bindings", LD_LIBRARY_PATH=str(stub_libraries(tmp_path_factory.mktemp("nvinfer"))))


def stub_libraries(folder: Path) -> Path:
    source = Path(fakes.__file__).with_name("stub_nvinfer.c")
    for version in ("10", "11"):
        for name in ("libnvinfer", "libnvonnxparser", "libnvinfer_plugin"):
            made = folder / f"{name}.so.{version}"
            subprocess.run([shutil.which("cc") or "gcc", "-shared", "-fPIC", "-o", made, source], check=True)
    return folder


def test_tensorrt_rtx_has_every_call(rtx):
    assert lacking(rtx, portable=True) == []
    assert rtx["nptype"]


@pytest.mark.slow  # a download of 95 MB each
@pytest.mark.parametrize("version", ["1.4.0.76", "1.5.0.114", "1.6.1.120"])
def test_older_versions_have_every_call(version, tmp_path):
    """Their engines run in them alone, so that users install them too."""
    assert Requirement(RUNNING).specifier.contains(version)
    line = [sys.executable, "-m", "pip", "install", "-q", "--target", tmp_path, f"tensorrt-rtx=={version}"]
    if subprocess.run(line, capture_output=True, timeout=600, check=False).returncode:
        pytest.skip("needs a package index")
    real = shown("tensorrt_rtx", PYTHONPATH=str(tmp_path))
    assert real["version"] == version
    assert lacking(real, portable=True) == []


def test_tensorrt_has_every_call(trt):
    assert lacking(trt, portable=False) == []
    assert trt["nptype"]
    assert int(trt["version"].split(".")[0]) in (10, 11)


def test_the_comparison_sees_what_is_not_there(rtx):
    documented = rtx["IExecutionContext"]
    assert accepts(documented["execute_async_v3"], "execute_async_v3(stream_handle)")
    assert not accepts(documented["execute_async_v3"], "execute_async_v3(stream)")
    assert not accepts(documented["execute_async_v3"], "execute_async_v3()")
    assert not accepts(documented["execute_async_v3"], "execute_async_v3")
    assert not accepts(documented.get("enqueue_v3") or "", "enqueue_v3(stream_handle)")


STANDS_FOR = {
    fakes.FakeEngine: "ICudaEngine",
    fakes.FakeConfig: "IRuntimeConfig",
    fakes.FakeCache: "IRuntimeCache",
    fakes.FakeContext: "IExecutionContext",
}


def test_the_stand_in_offers_no_call_that_is_not_compared(rtx):
    """So what runs on the stand-in makes compared calls alone."""
    for fake, real in STANDS_FOR.items():
        compared = {call for calls in CALLS[real] for call in calls}
        for name, function in inspect.getmembers(fake, inspect.isfunction):
            if name.startswith("_") or name == "create_execution_context":  # that one has two forms
                continue
            parameters = [*inspect.signature(function).parameters][1:]
            call = f"{name}({', '.join(parameters)})"
            assert call in compared, f"{real}.{call}"
    runtime = fakes.FakeRuntime().Runtime
    for name in ("deserialize_cuda_engine", "get_engine_validity"):
        parameters = [*inspect.signature(getattr(runtime, name)).parameters][1:]
        assert f"{name}({', '.join(parameters)})" in {call for calls in CALLS["Runtime"] for call in calls}


ATTRIBUTE = re.compile(r"\.([a-z]\w*)\b")
SOURCES = (
    *sorted((Path(fakes.__file__).parents[2] / "runtime/smalti/backends/tensorrt").glob("*.py")),
    Path(fakes.__file__).parents[2] / "export/smalti_export/engines/toolkit.py",
)


def test_names_of_both_runtimes_that_the_source_has_are_compared(rtx):
    """No call of the bindings hides in the adapters: each of their names that appears there is in the table."""
    compared = {call.partition("(")[0] for calls in CALLS.values() for part in calls for call in part}
    real = {name for kind in CALLS for name in (rtx[kind] or {}) if not name.startswith("_")}
    used = {name for file in SOURCES for name in ATTRIBUTE.findall(file.read_text(encoding="utf-8"))}
    assert used & real - compared - ORDINARY == set()


ORDINARY = {"file", "line", "name", "names", "value", "engine", "log", "weights", "flags", "reset", "shape", "type"}
"""Names that our own objects have too."""
