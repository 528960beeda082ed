"""Settings that lay out a run: which there are depends on how a bundle draws its tokens."""

from __future__ import annotations

import math
import numbers
import operator
from typing import Any, SupportsIndex

from smalti.bundle.manifest import Family, Latent, Manifest
from smalti.errors import UsageError
from smalti.families import sundae
from smalti.families.absorbing import schedule
from smalti.families.absorbing.confidence import MAX_CHOICE_TEMPERATURE
from smalti.families.canvas import canvas_size

Values = dict[str, Any]

PLANS: dict[Family, tuple[str, ...]] = {
    "absorbing": ("steps", "schedule", "order", "choice_temperature", "remask", "stride"),
    "autoregressive": (),
    "sundae": ("steps", "final_temperature", "proportion", "min_steps", "stride"),
    "multinomial": ("steps", "stride"),
}
"""The settings of each family's plan."""
PLAN = tuple(dict.fromkeys(name for names in PLANS.values() for name in names))
"""The settings of any plan."""
WAYS: dict[Family, str] = {
    "absorbing": "unmasks its tokens step by step",
    "autoregressive": "draws one token after the other in raster order",
    "sundae": "starts from random tokens and draws them anew, step by step",
    "multinomial": "starts from noise and takes it away, step by step",
}
"""How each family draws, in words."""


def plan(asked: Values, temperature: float, size: tuple[int, int], manifest: Manifest) -> Values:
    """Every setting of PLAN, checked: what was asked for, else the bundle's default, and None without a meaning.

    ``asked`` holds what the caller gave and not None; ``temperature`` is the one settled on, ``size`` the canvas in
    pixels. Raises UsageError, saying what is allowed, for a value outside that or a setting of another family.
    """
    family = manifest.family
    if foreign := [name for name in PLAN if name in asked and name not in PLANS[family]]:
        raise UsageError(
            f"{', '.join(foreign)}: bundle {manifest.name} {WAYS[family]}, and knows no such choice; leave it out"
            + (f" (it has {', '.join(PLANS[family])})" if PLANS[family] else "")
        )
    if family == "autoregressive":
        _own_size(size, manifest)
        own: Values = {}
    elif family == "sundae":
        own = _sundae(asked, temperature, manifest) | {"stride": _stride(asked, size, manifest.latent)}
    elif family == "multinomial":
        own = _multinomial(asked, manifest) | {"stride": _stride(asked, size, manifest.latent)}
    else:
        own = _absorbing(asked, manifest) | {"stride": _stride(asked, size, manifest.latent)}
    return dict.fromkeys(PLAN) | own


def _absorbing(asked: Values, manifest: Manifest) -> Values:
    default = manifest.sampler
    steps = whole("steps", asked.get("steps", default.steps))
    counts, order, remask = asked.get("schedule", default.schedule), asked.get("order"), asked.get("remask")
    if order is None:
        # Defaults give way to what was asked for, where they do not go together.
        order = "random" if counts == "binomial" or (default.order == "confidence" and remask) else default.order
    if remask is None:
        remask = 0.0 if order == "confidence" else default.remask
    schedule.check(steps, counts, order, remask)
    heat = asked.get("choice_temperature")
    if heat is not None and order != "confidence":
        raise UsageError(f"choice_temperature {heat}: it belongs to order confidence, and this order is {order}")
    heat = number("choice_temperature", default.choice_temperature if heat is None else heat, 0, MAX_CHOICE_TEMPERATURE)
    return {
        "steps": steps,
        "schedule": counts,
        "order": order,
        "choice_temperature": heat if order == "confidence" else None,
        "remask": remask if isinstance(remask, str) else float(remask),
    }


def _sundae(asked: Values, temperature: float, manifest: Manifest) -> Values:
    default = manifest.sampler
    steps = whole("steps", asked.get("steps", default.steps))
    # A default that cools must not heat a run that was asked to begin cooler.
    final = asked.get("final_temperature", min(default.final_temperature, temperature))
    proportion = _pair("proportion", asked["proportion"]) if "proportion" in asked else default.proportion
    if steps < sundae.SUBSET_STEPS:
        if "proportion" in asked and proportion != (1.0, 1.0):
            raise UsageError(
                f"proportion {_shown(proportion)}: a run of fewer than {sundae.SUBSET_STEPS} steps draws every token "
                f"at every step; leave it out, or take at least {sundae.SUBSET_STEPS} steps"
            )
        proportion = (1.0, 1.0)
    final = number("final_temperature", final, 0.01, 100)
    min_steps = whole("min_steps", asked.get("min_steps", default.min_steps))
    sundae.annealing(steps, (temperature, final), proportion, min_steps)  # which says what else is allowed
    return {"steps": steps, "final_temperature": final, "proportion": proportion, "min_steps": min_steps}


def _multinomial(asked: Values, manifest: Manifest) -> Values:
    steps = whole("steps", asked.get("steps", manifest.sampler.steps))
    most = manifest.noise.steps if manifest.noise else 1
    if not 1 <= steps <= most:
        raise UsageError(f"steps {steps}: allowed are 1 .. {most}, the steps that this prior was trained with")
    return {"steps": steps}


def _stride(asked: Values, size: tuple[int, int], latent: Latent) -> int | None:
    """Tokens from window to window, checked; None where the canvas is the bundle's own, and is one window."""
    side = min(latent.grid)
    stride = whole("stride", asked.get("stride", max(1, side // 2)))
    if not 1 <= stride <= side:
        raise UsageError(f"stride {stride}: allowed are 1 .. {side} tokens; more would leave gaps between windows")
    return None if size == canvas_size(None, latent) else stride


def _own_size(size: tuple[int, int], manifest: Manifest) -> None:
    own = canvas_size(None, manifest.latent)
    if size != own:
        raise UsageError(f"size {size[0]}x{size[1]}: bundle {manifest.name} draws images of {own[0]}x{own[1]} only")


def number(name: str, value: Any, least: float, most: float) -> float:
    """A float of ``value``; UsageError, by its ``name``, for anything but a number from ``least`` to ``most``."""
    found = float(value) if isinstance(value, numbers.Real) else math.nan
    if not least <= found <= most:
        raise UsageError(f"{name} {value}: allowed are {least:g} .. {most:g}")
    return found


def whole(name: str, value: SupportsIndex) -> int:
    """An int of ``value``; UsageError, by its ``name``, for anything but a whole number."""
    try:
        return operator.index(value)
    except TypeError:
        raise UsageError(f"{name} {value!r}: a whole number is needed") from None


def _pair(name: str, value: Any) -> tuple[float, float]:
    """First and last of a share above 0 and at most 1, from two numbers or from one that stands for both."""
    try:
        first, last = (value, value) if isinstance(value, numbers.Real) else value
        pair = float(first), float(last)
    except (TypeError, ValueError):
        pair = math.nan, math.nan
    if isinstance(value, str) or not all(0 < end <= 1 for end in pair):
        raise UsageError(f"{name} {value!r}: a number above 0 and at most 1 is needed, or two: first step's and last's")
    return pair


def _shown(pair: tuple[float, float]) -> str:
    return f"{pair[0]:g}:{pair[1]:g}"
