"""Stands for the package ``tensorrt`` in processes whose path it is put on; FAKE_TENSORRT_PAUSE are seconds a step."""

import os

from helpers.fake_tensorrt import FakeTensorRT

_fake = FakeTensorRT(
    "10.13.3", fail=os.environ.get("FAKE_TENSORRT_FAIL", ""), pause=float(os.environ.get("FAKE_TENSORRT_PAUSE", "0"))
)
globals().update({name: value for name, value in vars(_fake).items() if name[0] != "_"})
__version__ = _fake.__version__


class Runtime:
    """Reads no engine, since that takes a GPU."""

    def __init__(self, logger: object) -> None:
        self.logger = logger

    def deserialize_cuda_engine(self, serialized_engine: bytes) -> None:
        return None
