"""How a picture was made, in the form that web UIs and galleries read: words, then a line of names and values.

AUTOMATIC1111's stable-diffusion-webui brought the form, and others read it: a text chunk ``parameters`` of a PNG, or
the user's comment in EXIF.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from smalti.saving.recipe import Recipe


def parameters(recipe: Recipe, sampler: str, steps: int) -> str:
    """Return a recipe in that form. The labels stand where others have a prompt, each once, and the seed is the first.

    ``sampler`` is the name of the bundle's family, ``steps`` its number of steps or, where it has none, of tokens.
    """
    prompt = ", ".join(" ".join(label.split()) for label in dict.fromkeys(recipe.labels) if label)
    size: Any = recipe.options.get("size")
    values: dict[str, Any] = {
        "Steps": steps,
        "Sampler": sampler,
        "CFG scale": recipe.options.get("guidance"),
        "Seed": recipe.seeds[0],
        "Size": f"{size[0]}x{size[1]}" if size else None,
        "Model hash": recipe.bundle_digest[:10],
        "Model": recipe.bundle,
        "Denoising strength": recipe.strength,
        "Version": f"smalti {recipe.version}",
    }
    return f"{prompt}\n{_line(values)}".strip()


def _line(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}: {_quoted(str(value))}" for name, value in values.items() if value is not None)


def _quoted(text: str) -> str:
    """Return a value as it stands in the line: in quotes where it would end early or look like the next name."""
    return json.dumps(text, ensure_ascii=False) if any(sign in text for sign in ',:"\n\r') else text
