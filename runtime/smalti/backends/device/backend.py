"""Backends whose graphs and draws run on a device, and their sessions as those that take and give arrays."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smalti.backends.base import Arrays, Backend, Session
from smalti.backends.device.arena import Arena, Device
from smalti.backends.device.guard import decodes_wrongly
from smalti.backends.device.loop import DeviceRun
from smalti.backends.device.plan import Program
from smalti.backends.device.shapes import Sides, shape_of, sides_of
from smalti.backends.device.tensors import DeviceSession
from smalti.bundle.manifest import Component, Precision, Role, kind_of
from smalti.bundle.reader import Bundle
from smalti.errors import BundleError, ProviderUnavailable


class DeviceBackend(Backend):
    """A backend that keeps tokens and logits on a device from a run's first step to its pixels."""

    place: Device
    """Kernels, context and stream of all runs."""

    def __init__(self, place: Device) -> None:
        self.place = place

    @abstractmethod
    def open_on_device(self, bundle: Bundle, role: Role, precision: Precision) -> DeviceSession:
        """Load a component. Raises BundleError for a graph that cannot be run."""

    def open(self, bundle: Bundle, role: Role, precision: Precision) -> Session:
        """Load a component as a session that takes and gives arrays; see :meth:`bound`."""
        session = self.open_on_device(bundle, role, precision)
        return ArraySession(self.place, session, bundle.manifest.components[role])

    def guarded(self, session: Session, bundle: Bundle, role: Role, precision: Precision) -> tuple[Session, str | None]:
        """Return ``session`` or, for a decoder that overflows in fp16 on this device, one in fp32, and why.

        Raises BundleError and ProviderUnavailable as :meth:`open` does.
        """
        if precision != "fp16" or kind_of(role) != "decoder":
            return session, None
        wrong = decodes_wrongly(session, bundle, role)
        if wrong is None:
            return session, None
        try:
            return self.open(bundle, role, "fp32"), wrong
        except ProviderUnavailable as error:
            raise ProviderUnavailable(f"{role}: {wrong}; and in fp32 it cannot be run: {error}") from error

    def bound(self, session: Session) -> DeviceSession:
        """Return the session of addresses behind one that :meth:`open` gave."""
        assert isinstance(session, ArraySession)
        return session.bound

    def run(self, program: Program, network: Session, window: tuple[int, int]) -> DeviceRun:
        """Return a program as a run on the device; ``window`` is the grid that the network reads."""
        return DeviceRun(self.place, program, self.bound(network), window)


class ArraySession:
    """A device's session that takes and gives arrays: they are copied to the device and back."""

    def __init__(self, device: Device, bound: DeviceSession, component: Component) -> None:
        self.bound = bound
        self.inputs, self.outputs = bound.inputs, bound.outputs
        self._device, self._component = device, component

    def __call__(self, inputs: Arrays) -> list[NDArray[Any]]:
        """Copy inputs to the device, run, and copy the outputs back."""
        known = {signature.name: signature for signature in self.inputs}
        given = {name: np.ascontiguousarray(array) for name, array in inputs.items() if name in known}
        sides: Sides = {}
        for spec in self._component.inputs:
            if spec.name in given:
                sides_of(spec, given[spec.name].shape, sides)
        specs = {spec.name: spec for spec in self._component.outputs}
        if unknown := [one.name for one in self.outputs if one.name not in specs]:
            raise BundleError(f"a graph has an output {unknown[0]} that its manifest does not have")
        shapes: dict[str, tuple[tuple[int, ...], str]] = {
            **{f"in {name}": (array.shape, str(array.dtype)) for name, array in given.items()},
            **{f"out {one.name}": (shape_of(specs[one.name], sides), one.dtype) for one in self.outputs},
        }
        with Arena(self._device, shapes) as arena:
            try:
                for name, array in given.items():
                    self._device.upload(arena[f"in {name}"], array)
                self._device.wait()  # a predictor's nodes on the CPU read inputs while they are bound
                results = self._run(arena, given)
            finally:
                self._device.settle()
        return results

    def _run(self, arena: Arena, given: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        inputs = {name: arena[f"in {name}"] for name in given}
        outputs = {one.name: arena[f"out {one.name}"] for one in self.outputs}
        self.bound.queue(inputs, outputs)
        results = [self._device.download(tensor) for tensor in outputs.values()]
        self._device.wait()
        return results
