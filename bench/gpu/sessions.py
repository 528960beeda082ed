"""Networks for the device loop: one that computes on the host, one that is recorded, and one that costs nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smalti.backends.base import Session
from smalti.backends.device.arena import Device
from smalti.backends.device.tensors import DeviceSession, Tensor


class HostNetwork:
    """A session of the host, between copies: everything but the network runs on the device."""

    def __init__(self, device: Device, session: Session) -> None:
        self.inputs, self.outputs = session.inputs, session.outputs
        self._device, self._session = device, session

    def queue(self, inputs: Mapping[str, Tensor], outputs: Mapping[str, Tensor]) -> None:
        """Fetch the inputs, compute, and send the outputs; wait for all of it."""
        names = [signature.name for signature in self.inputs]
        given = {name: self._device.download(inputs[name]) for name in names}
        self._device.wait()
        answers = self._session(given)
        for signature, answer in zip(self.outputs, answers):
            if signature.name in outputs:
                self._device.upload(outputs[signature.name], np.ascontiguousarray(answer))
        self._device.wait()


class Recorded:
    """A session whose logits are kept."""

    def __init__(self, device: Device, session: DeviceSession) -> None:
        self.inputs, self.outputs = session.inputs, session.outputs
        self._device, self._session = device, session
        self.logits: list[NDArray[Any]] = []

    def queue(self, inputs: Mapping[str, Tensor], outputs: Mapping[str, Tensor]) -> None:
        """Run, and fetch the logits."""
        self._session.queue(inputs, outputs)
        self.logits.append(self._device.download(outputs["logits"]))
        self._device.wait()


class Free:
    """A session that answers with logits that lie on the device: all that it costs is a copy."""

    def __init__(self, device: Device, session: DeviceSession, source: Tensor) -> None:
        """``source`` has at least as many logits as any answer."""
        self.inputs, self.outputs = session.inputs, session.outputs
        self._device, self._source = device, source

    def queue(self, inputs: Mapping[str, Tensor], outputs: Mapping[str, Tensor]) -> None:
        """Queue the copy."""
        answer = outputs["logits"]
        self._device.copy(answer, self._source._replace(shape=answer.shape))
