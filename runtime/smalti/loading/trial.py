"""Try a provider with a bundle: does it compute the golden inputs as certified, and how long does a picture take."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Final, cast

from numpy.typing import NDArray

from smalti.backends.base import Backend, RequestedPrecision, Session
from smalti.backends.registry import open_backend
from smalti.bundle.manifest import PRIOR_ROLES, missed
from smalti.bundle.reader import Bundle
from smalti.drawing.generator import Generator
from smalti.errors import BundleError, ProviderUnavailable, SamplingError, SmaltiError
from smalti.system.verdicts import Verdict
from smalti.verification.golden import compare_golden, read_golden
from smalti.verification.speed.measure import measure

REPEATS: Final = 3
JUDGED, CRASHED, ABSENT, PASSING = 24.0 * 30, 24.0, 1.0, 0.25
"""Hours for which a trial is believed: where golden inputs decided, where its process crashed, where the provider could
not be opened at all, and where something failed that may be over soon, such as a lack of memory."""


class Trial(Verdict, frozen=True, kw_only=True):
    """What a trial found."""

    provider: str
    problem: str = ""
    """Why the provider is refused; empty if it is not."""
    absent: bool = False
    """Whether it cannot run here at all, whatever the bundle."""
    judged: bool = False
    """Whether golden inputs decided that it is refused."""
    precision: RequestedPrecision = "auto"
    """The precision to ask for, in which the golden inputs passed."""
    note: str = ""
    """What else is to be said, such as why it is not the precision that was asked for."""
    seconds: float | None = None
    """Seconds of a picture by the bundle's defaults; None where that was not measured."""
    hours: float = JUDGED


def refused(provider: str, problem: str, hours: float = PASSING) -> Trial:
    """Return a trial of a provider that is refused."""
    return Trial(
        provider=provider,
        problem=problem,
        absent=hours == ABSENT,
        judged=hours == JUDGED,
        made=time.time(),
        hours=hours,
    )


def try_out(bundle: Bundle, backend: Backend, precision: str, *, timed: bool) -> tuple[Trial, Generator | None]:
    """Measure golden inputs and, if asked, time on a backend; return what was found, and the generator if it is good.

    Where ``precision`` is auto and its choice fails, fp32 is tried. Raises UsageError when the precision is unknown or
    the backend does not run it, BundleError when the bundle is damaged.
    """
    first = ""
    for asked in (precision, "fp32") if precision == "auto" else (precision,):
        try:
            generator = Generator(bundle, backend, asked)
            problem, unjudged = _wrong(generator)
        except (BundleError, ValueError):  # of the bundle, or of what was asked for
            raise
        except SmaltiError as error:
            told = f"{first}; and in fp32: {error}" if first else str(error)
            return refused(backend.name, told, JUDGED if first else PASSING), None
        if not problem:
            seconds = None
            try:
                seconds = measure(generator, repeats=REPEATS).at("total") if timed else None
            except SamplingError as error:  # on the CPU it is the bundle's fault, and told when it is drawn with
                if backend.name != "cpu":
                    return refused(backend.name, str(error)), None
            except SmaltiError as error:
                return refused(backend.name, str(error)), None
            note = f"fp32, as {first}" if first else unjudged
            found = Trial(
                provider=backend.name,
                precision=cast(RequestedPrecision, asked),
                note=note,
                seconds=seconds,
                made=time.time(),
            )
            return found, generator
        first = first or problem
        if all(one == "fp32" for one in generator.report.precision.values()):
            break
    return refused(backend.name, first, JUDGED), None


class _Failed(Exception):
    """A session that cannot run its golden inputs."""


def _wrong(generator: Generator) -> tuple[str, str]:
    """Return which golden inputs are not computed as certified, and why others cannot be judged; empty if none."""
    bundle, wrong, unjudged = generator.bundle, list[str](), list[str]()
    try:
        golden = read_golden(bundle)
    except BundleError as error:  # verify refuses such a bundle; it draws all the same
        return "", f"golden inputs cannot be used: {error}"
    needed = {PRIOR_ROLES[bundle.manifest.family], "decoder"}
    for role, cases in (golden.cases if golden else {}).items():
        try:
            session = _failing(generator.session(role))
        except (ProviderUnavailable, BundleError) as error:  # a damaged file harms when it is used
            if role in needed:
                raise
            unjudged.append(f"{role} cannot be run: {error}")
            continue
        precision = generator.report.precision[role]
        for one in bundle.manifest.certificate:
            if (one.component, one.precision) != (role, precision):
                continue
            try:
                out = missed(compare_golden(bundle, role, cases, session), one.tolerances)
            except _Failed as error:
                wrong.append(f"{role} in {precision} cannot compute golden inputs: {error}")
            except BundleError as error:
                unjudged.append(f"golden inputs cannot be used: {error}")
            else:
                wrong += [f"{role} in {precision} computes golden inputs wrongly: {'; '.join(out)}"] if out else []
    return "; ".join(wrong), "; ".join(unjudged) if golden else "the bundle has no golden inputs"


def _failing(session: Session) -> Any:
    """Return a graph whose failures are told from golden inputs that do not fit."""

    def graph(inputs: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        try:
            return session(inputs)
        except BundleError as error:
            raise _Failed(str(error)) from error

    return graph


def try_provider(bundle: Bundle, provider: str, precision: str) -> Trial:
    """Open a provider and try it, with its time, in this process."""
    try:
        backend = open_backend(provider)
    except SmaltiError as error:
        return refused(provider, str(error), ABSENT)
    try:
        return try_out(bundle, backend, precision, timed=True)[0]
    except SmaltiError as error:
        return refused(provider, str(error))
