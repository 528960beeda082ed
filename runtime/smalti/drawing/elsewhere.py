"""A loaded bundle in other processes: what is pickled of it, how it opens again, and what a forked child may use."""

from __future__ import annotations

import os
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar, cast

from smalti.backends import forked
from smalti.backends.base import Backend, ProviderReport
from smalti.backends.device.backend import DeviceBackend
from smalti.backends.registry import PROVIDERS, open_backend
from smalti.bundle.reader import Bundle, open_bundle
from smalti.errors import BundleError, ProviderUnavailable, UsageError
from smalti.families.limits import Limits

GIVEN = "the backend was given"
"""Why a bundle has its backend, where nobody says more."""
ON_DEVICES = ("cuda", "rtx", "trt", "webgpu")
"""Providers whose memory and threads a forked child does not have."""


class Opened(Protocol):
    """A bundle on a backend."""

    bundle: Bundle
    backend: Backend
    report: ProviderReport
    limits: Limits


@dataclass(frozen=True)
class Saved:
    """What opens a bundle again as it is now."""

    path: Path
    digest: str
    backend: Backend | None
    """The caller's own; None opens the provider of the report."""
    precision: str
    report: ProviderReport
    limits: Limits


Kind = TypeVar("Kind")


def check_process(opened: Opened, process: int) -> None:
    """Raise ProviderUnavailable where a device is used by another process than ``process``, which opened it."""
    on_device = isinstance(opened.backend, DeviceBackend) or opened.backend.name in ON_DEVICES
    if on_device and os.getpid() != process:
        raise ProviderUnavailable(f"provider {opened.backend.name}: {forked.FORKED}")


def saved(opened: Opened) -> Saved:
    """Return what opens a bundle again. Raises UsageError for a backend that was given and cannot be pickled."""
    report, backend = opened.report, None
    if report.why.startswith(GIVEN) or report.actual not in PROVIDERS:
        backend = opened.backend
        try:
            pickle.dumps(backend)
        except Exception as error:  # of a class that is not ours
            raise UsageError(
                f"backend {type(backend).__name__} cannot be pickled ({error}), and so neither can what was loaded "
                "with it; load the bundle anew in the other process"
            ) from error
    return Saved(opened.bundle.path.absolute(), opened.bundle.digest, backend, _asked(opened), report, opened.limits)


def opened_again(kind: type[Kind], kept: Saved) -> Kind:
    """Open a bundle as it was.

    Raises BundleError when it is missing or another one by now, and ProviderUnavailable when its provider cannot run.
    """
    bundle = open_bundle(kept.path)
    if bundle.digest != kept.digest:
        raise BundleError(
            f"{kept.path} has changed: its digest is {bundle.digest[:12]}, and it was {kept.digest[:12]}; load it anew"
        )
    report = kept.report
    backend = kept.backend or open_backend(report.actual, report.threads)
    again: Any = cast(Any, kind)(bundle, backend, kept.precision, requested=report.requested, limits=kept.limits)
    if again.report.precision == report.precision and again.report.device == report.device:
        again.report = report
    return again


def _asked(opened: Opened) -> str:
    """Return the precision to ask for, so that components come in those that they have now."""
    report = opened.report
    for asked in (report.requested_precision, "auto", "fp32", "fp16", "int8"):
        try:
            if opened.backend.resolve_precision(opened.bundle, asked)[0] == report.precision:
                return asked
        except UsageError:
            continue
    return report.requested_precision
