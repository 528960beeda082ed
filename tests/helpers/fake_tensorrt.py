"""TensorRT without TensorRT: the calls that a builder makes, noted, and an engine that says what it was built from."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any


class FakeTensorRT:
    """Stands for the module; ``calls`` hold what the builder was asked for."""

    __name__ = "fake_tensorrt"

    def __init__(self, version: str = "10.13.0", *, portable: bool = False, fail: str = "", pause: float = 0.0) -> None:
        """``fail`` is device, parse or build, or build:decoder for one graph; each step takes ``pause`` seconds."""
        self.__version__ = version
        self.calls: list[tuple[Any, ...]] = []
        self.fail = fail
        self.BuilderFlag = SimpleNamespace(TF32=7)
        self.NetworkDefinitionCreationFlag = SimpleNamespace(STRONGLY_TYPED=1)
        if portable:
            self.ComputeCapability = SimpleNamespace(SM75=75, SM86=86, SM89=89, SM120=120, CURRENT=0)
        fake = self

        class ILogger:
            ERROR, INTERNAL_ERROR, INFO = 1, 0, 3

            def __init__(self) -> None:
                pass

        class IProgressMonitor:
            def __init__(self) -> None:
                pass

        class OnnxParser:
            num_errors = 1

            def __init__(self, network: Any, log: Any) -> None:
                self.network = network

            def parse_from_file(self, path: str) -> bool:
                beside = sorted(file.name for file in Path(path).parent.iterdir())
                fake.calls.append(("parse", Path(path).name, beside))
                self.network.source, self.network.name = Path(path).read_bytes(), Path(path).name
                return fake.fail != "parse"

            def get_error(self, index: int) -> Any:
                return SimpleNamespace(desc=lambda: "an operator it does not know")

        class Builder:
            def __init__(self, log: Any) -> None:
                if fake.fail == "device":
                    log.log(ILogger.ERROR, "no CUDA-capable device is detected")
                    raise TypeError("factory function returned nullptr")
                self.log = log

            def create_network(self, flags: int) -> Any:
                fake.calls.append(("flags", flags))
                names = ("tokens", "labels", "rows")
                return SimpleNamespace(num_inputs=3, get_input=lambda index: SimpleNamespace(name=names[index]))

            def create_builder_config(self) -> Any:
                return SimpleNamespace(
                    clear_flag=lambda flag: fake.calls.append(("clear", flag)),
                    set_compute_capability=lambda value, index: fake.calls.append(("target", index, value)),
                    add_optimization_profile=lambda profile: fake.calls.append(("profile", profile.shapes)),
                )

            def create_optimization_profile(self) -> Any:
                shapes: dict[str, Any] = {}
                return SimpleNamespace(
                    shapes=shapes, set_shape=lambda name, *sizes: shapes.update({name: tuple(sizes)})
                )

            def build_serialized_network(self, network: Any, config: Any) -> bytes | None:
                if not watched(getattr(config, "progress_monitor", None)):
                    self.log.log(ILogger.ERROR, "Build canceled by user")
                    return None
                kind, _, only = fake.fail.partition(":")
                if kind == "build" and network.name.startswith(only):
                    self.log.log(ILogger.INFO, "not this")
                    self.log.log(ILogger.ERROR, "Cannot compile operation")
                    return None
                return b"vtrt" + hashlib.sha256(network.source + repr(fake.calls).encode()).digest()

        def watched(monitor: Any) -> bool:
            """Work in a phase of two steps with one of four in the second; return False once the monitor does."""

            def steps(name: str, count: int, inner: Callable[[int], bool]) -> bool:
                for step in range(count):
                    time.sleep(pause)
                    if not inner(step) or not (monitor is None or monitor.step_complete(name, step)):
                        return False
                return True

            def phase(name: str, parent: str | None, count: int, inner: Callable[[int], bool]) -> bool:
                if monitor is not None:
                    monitor.phase_start(name, parent, count)
                went_on = steps(name, count, inner)
                if monitor is not None:
                    monitor.phase_finish(name)
                return went_on

            timing = partial(phase, "Timing", "Building", 4, lambda step: True)
            return phase("Building", None, 2, lambda step: step == 0 or timing())

        self.ILogger, self.OnnxParser, self.Builder = ILogger, OnnxParser, Builder
        self.IProgressMonitor = IProgressMonitor
