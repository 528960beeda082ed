"""One engine as a session on a device: profiles and shapes are chosen, addresses bound, work queued on a stream."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from smalti.backends.device.arena import Arena, Device
from smalti.backends.device.tensors import Tensor
from smalti.backends.signatures import Signature
from smalti.backends.tensorrt.bindings import Bindings
from smalti.errors import BundleError, ProviderUnavailable

Sizes = tuple[int, ...]
Range = tuple[Sizes, Sizes, Sizes]
"""Least, best and most of an input's sides."""


class EngineSession:
    """An engine on a device's stream: a ``DeviceSession``.

    Each optimisation profile has an execution context of its own, made when a run first needs it. A batch that no
    profile takes whole is queued in parts.
    """

    def __init__(
        self,
        bindings: Bindings,
        engine: Any,
        place: Device,
        where: str,
        contexts: Callable[[Any], Any],
        worked: Callable[[], object] = lambda: None,
    ) -> None:
        """Read the engine's signature and sizes.

        ``where`` names the engine in messages. ``contexts`` makes an execution context of it, or returns None.
        ``worked`` is called after a run of shapes that are new.
        """
        self._bindings, self._engine, self._place, self._where = bindings, engine, place, where
        self._make, self._worked = contexts, worked
        self._seen: set[tuple[Sizes, ...]] = set()
        self._contexts: dict[int, Any] = {}
        self._scratch: dict[str, Arena] = {}
        self._lock = threading.Lock()
        names = [str(engine.get_tensor_name(index)) for index in range(engine.num_io_tensors)]
        taken = bindings.trt.TensorIOMode.INPUT
        self.inputs = tuple(self._signature(name) for name in names if engine.get_tensor_mode(name) == taken)
        self.outputs = tuple(self._signature(name) for name in names if engine.get_tensor_mode(name) != taken)
        self._profiles = [self._ranges(index) for index in range(engine.num_optimization_profiles)]

    def queue(self, inputs: Mapping[str, Tensor], outputs: Mapping[str, Tensor]) -> None:
        """Queue the engine, as :class:`smalti.backends.device.tensors.DeviceSession` has it.

        The first run in a profile makes its context, for which TensorRT-RTX compiles kernels.

        Raises BundleError when inputs are missing or of shapes that the engine was not built for, ProviderUnavailable
        when the device cannot run it.
        """
        known = {one.name for one in self.inputs}
        if missing := known - inputs.keys():
            raise BundleError(
                f"{self._where}: it needs {', '.join(sorted(missing))}, and was given {', '.join(inputs)}"
            )
        given = {name: inputs[name] for name in sorted(known)}
        with self._lock, self._place.entered():
            for profile, part, into in self._parts(given, outputs):
                self._run(profile, part, into)

    def _signature(self, name: str) -> Signature:
        kind = np.dtype(self._bindings.trt.nptype(self._engine.get_tensor_dtype(name))).name
        sides = tuple(None if side < 0 else int(side) for side in self._engine.get_tensor_shape(name))
        return Signature(name, kind, sides)

    def _ranges(self, profile: int) -> dict[str, Range]:
        ranges: dict[str, Range] = {}
        for one in self.inputs:
            least, best, most = self._engine.get_tensor_profile_shape(one.name, profile)
            ranges[one.name] = tuple(least), tuple(best), tuple(most)
        return ranges

    def _parts(
        self, inputs: Mapping[str, Tensor], outputs: Mapping[str, Tensor]
    ) -> Iterator[tuple[int, Mapping[str, Tensor], Mapping[str, Tensor]]]:
        """Yield profiles with the part of the batch that each runs."""
        whole = {name: tensor.shape for name, tensor in inputs.items()}
        count = min((shape[0] for shape in whole.values() if shape), default=1)
        together = all(shape and shape[0] == count for shape in whole.values())
        begin = 0
        while begin < count:
            fits = ((self._profile(whole, size), size) for size in range(count - begin, 0, -1))
            # Where a batch is not the first side of all inputs, it runs as it is or not at all.
            if begin == 0 and not together:
                fits = iter([(self._taking(whole), count)])
            profile, size = next(((index, size) for index, size in fits if index is not None), (None, 0))
            if profile is None:
                raise BundleError(self._unfit(whole))
            if size == count:
                yield profile, inputs, outputs
            else:
                part = slice(begin, begin + size)
                yield profile, _sliced(inputs, part), _sliced(outputs, part)
            begin += size

    def _profile(self, whole: Mapping[str, Sizes], count: int) -> int | None:
        return self._taking({name: (count, *shape[1:]) for name, shape in whole.items()})

    def _taking(self, shapes: Mapping[str, Sizes]) -> int | None:
        """Return the first profile that takes inputs of these shapes."""
        for index, ranges in enumerate(self._profiles):
            if all(_within(shape, ranges[name]) for name, shape in shapes.items()):
                return index
        return None

    def _unfit(self, shapes: Mapping[str, Sizes]) -> str:
        given = ", ".join(f"{name} {list(shape)}" for name, shape in shapes.items())
        takes = " or ".join(
            ", ".join(f"{name} {list(least)} .. {list(most)}" for name, (least, _, most) in sorted(ranges.items()))
            for ranges in self._profiles
        )
        return (
            f"{self._where}: it was not built for {given}; it takes {takes}. Ask for other sizes, build it again with "
            f"smalti engine build --runtime {self._bindings.runtime} --force, or use another provider"
        )

    def _run(self, profile: int, inputs: Mapping[str, Tensor], outputs: Mapping[str, Tensor]) -> None:
        stream = self._place.stream
        context = self._context(profile)
        for name, tensor in inputs.items():
            if not (context.set_input_shape(name, tensor.shape) and context.set_tensor_address(name, tensor.address)):
                raise self._failed(f"it does not take {name} {list(tensor.shape)}")
        try:
            lacking = context.infer_shapes()
        except RuntimeError as error:
            raise self._failed(f"the sizes of its inputs do not fit together ({error})") from error
        if lacking:
            raise self._failed(f"it does not know the sizes of {', '.join(lacking)}")
        for one in self.outputs:
            shape = tuple(int(side) for side in context.get_tensor_shape(one.name))
            target = outputs.get(one.name) or self._spare(one, shape)
            if target.shape != shape or target.dtype != one.dtype:
                raise BundleError(
                    f"{self._where}: its output {one.name} is {one.dtype} {list(shape)}, and there is room for "
                    f"{target.dtype} {list(target.shape)}"
                )
            if not context.set_tensor_address(one.name, target.address):
                raise self._failed(f"it does not give {one.name}")
        if not context.execute_async_v3(stream):
            raise self._failed("it cannot be run")
        shapes = tuple(tensor.shape for tensor in inputs.values())
        if shapes not in self._seen:
            self._place.wait()  # what fails on the device fails here, before anybody relies on it
            self._seen.add(shapes)
            self._worked()

    def _context(self, profile: int) -> Any:
        context = self._contexts.get(profile)
        if context is None:
            context = self._make(self._engine)
            if context is None:
                raise self._failed("the device has no room for it, or cannot compile it")
            if not context.set_optimization_profile_async(profile, self._place.stream):
                raise self._failed(f"its profile {profile} cannot be used")
            self._place.wait()
            self._contexts[profile] = context
        return context

    def _spare(self, one: Signature, shape: Sizes) -> Tensor:
        """Return memory for an output that nobody asked for, which the engine writes all the same."""
        tensor = Tensor(0, shape, one.dtype)
        held = self._scratch.get(one.name)
        if held is None or held.nbytes < tensor.nbytes:
            if held is not None:
                self._place.wait()  # what is queued still writes there
                held.__exit__(None, None, None)
            held = self._scratch[one.name] = Arena(self._place, {one.name: (shape, one.dtype)})
        return tensor._replace(address=held.address)

    def _failed(self, what: str) -> ProviderUnavailable:
        said = self._bindings.said() or "no reason is given"
        return ProviderUnavailable(
            f"{self._where}: {what}: {self._bindings.name} says: {said}; draw fewer or smaller images at a time, or "
            "use another provider"
        )


def _within(shape: Sizes, span: Range) -> bool:
    least, _, most = span
    return len(shape) == len(least) and all(low <= side <= high for low, side, high in zip(least, shape, most))


def _sliced(tensors: Mapping[str, Tensor], part: slice) -> dict[str, Tensor]:
    """Return a part of each tensor's first side."""
    sliced: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        each = tensor.nbytes // max(tensor.shape[0], 1)
        shape = part.stop - part.start, *tensor.shape[1:]
        sliced[name] = tensor._replace(address=tensor.address + part.start * each, shape=shape)
    return sliced
