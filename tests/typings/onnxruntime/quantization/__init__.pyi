from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Any

from numpy.typing import NDArray

class CalibrationDataReader(ABC):
    @abstractmethod
    def get_next(self) -> dict[str, NDArray[Any]] | None: ...

class CalibrationMethod(Enum):
    MinMax = ...

class QuantFormat(Enum):
    QDQ = ...

class QuantType(Enum):
    QInt8 = ...
    QUInt8 = ...

def quantize_static(
    model_input: str,
    model_output: str,
    calibration_data_reader: CalibrationDataReader | None = ...,
    quant_format: QuantFormat = ...,
    op_types_to_quantize: Sequence[str] | None = ...,
    per_channel: bool = ...,
    *,
    activation_type: QuantType = ...,
    weight_type: QuantType = ...,
    nodes_to_exclude: Sequence[str] | None = ...,
    calibrate_method: CalibrationMethod = ...,
    extra_options: Mapping[str, Any] | None = ...,
) -> None: ...
