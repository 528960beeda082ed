# The part of ONNX Runtime that training and export use. The package ships no types.

from collections.abc import Mapping, Sequence
from enum import Enum
from os import PathLike
from typing import Any

from numpy.typing import NDArray

class ExecutionOrder(Enum):
    DEFAULT = ...
    PRIORITY_BASED = ...

class NodeArg:
    @property
    def name(self) -> str: ...

class SessionOptions:
    execution_order: ExecutionOrder
    intra_op_num_threads: int
    log_severity_level: int

    def add_external_initializers_from_files_in_memory(
        self, names: Sequence[str], contents: Sequence[bytes], lengths: Sequence[int], /
    ) -> None: ...

class InferenceSession:
    def __init__(
        self,
        path_or_bytes: str | bytes | PathLike[str],
        sess_options: SessionOptions | None = ...,
        providers: Sequence[str] | None = ...,
    ) -> None: ...
    def get_inputs(self) -> list[NodeArg]: ...
    # Outputs are arrays: no graph here has sequences, maps or optional values.
    def run(self, output_names: Sequence[str] | None, input_feed: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]: ...
