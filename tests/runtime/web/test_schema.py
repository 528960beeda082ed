"""schemathesis on the description of the interface: whatever fits it, or does not, gets an answer that it names."""

from __future__ import annotations

import contextlib
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from fastapi import FastAPI
from hypothesis import HealthCheck, given, seed, settings
from hypothesis.errors import Unsatisfiable
from PIL import Image
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)

import smalti
from helpers.served import hosted
from helpers.web_pictures import half_mask, text_of
from smalti.families.sundae import family as sundae
from smalti.web import health
from smalti.web.api import native, openai, sdapi
from smalti.web.serving import Serving, default_limits

CHECKS = [
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
    negative_data_rejection,
    unsupported_method,
]
EXAMPLES = 30
NEVER_MET = ("/v1/models/{name}", "/api/replay", "/v1/images/edits")
"""They need a name, or a file, that there is; other tests ask them so."""
OPERATIONS = 25
"""At least so many are described."""


@pytest.fixture(scope="module")
def described(tiny_bundle: Path):
    """A server whose pictures are small, so that whatever is asked is soon done."""
    limits = replace(default_limits(), count=2, steps=8, pixels=128 * 128, all_pixels=2 * 128 * 128)
    with hosted(Serving(limits=limits, timeout=5), [str(tiny_bundle)]) as server:
        yield schemathesis.openapi.from_url(f"{server.url}/openapi.json")


def operations() -> list[tuple[str, str]]:
    """Every method and path that is described."""
    app = FastAPI()
    for router in (native.router, openai.router, sdapi.router, health.router):
        app.include_router(router)
    return [(method.upper(), path) for path, calls in app.openapi()["paths"].items() for method in calls]


PICTURE = Image.new("RGB", (64, 64), "teal")
GIVEN = {
    "image": text_of(PICTURE),
    "mask": text_of(half_mask(PICTURE.size)),
    "images": [text_of(PICTURE)],
    "tokens": [[[1, 2], [3, 4]]],
    "prompt": "",
    **dict.fromkeys(("steps", "count", "n", "batch_size", "n_iter", "partial_images"), 1),
}
"""What no description could make up, or would be too much."""
DROPPED = {
    *("bundle", "model", "label", "seeds", "resolution", "size", "width", "height", "box", "fit", "stride"),
    *("left", "top", "bottom", "quality", "remask", "choice_temperature", "top_k"),
    *("response_format", "override_settings", *sundae.SundaeSettings.__struct_fields__),
}


def mended(body: Any, path: str) -> Any:
    """A body with real pictures, and without what only some bundles or sizes have."""
    kept = {name: value for name, value in body.items() if name not in DROPPED}
    needed = {"right": 16} if "outpaint" in path else {}
    return kept | needed | {name: value for name, value in GIVEN.items() if name in body}


@pytest.mark.parametrize(("method", "path"), operations())
def test_answers_are_those_that_the_description_names(method, path, described):
    operation, statuses = described[path][method], Counter()

    def ask(mode: GenerationMode, change: Any = None) -> None:
        @seed(28)
        @settings(max_examples=EXAMPLES // 3, deadline=None, suppress_health_check=list(HealthCheck), database=None)
        @given(case=operation.as_strategy(generation_mode=mode))
        def asked(case: Any) -> None:
            if change is not None and isinstance(case.body, dict):
                case.body = change(case.body, path)
            answer = case.call()
            statuses[answer.status_code] += 1
            if answer.status_code != 503:
                case.validate_response(answer, checks=[not_a_server_error, *CHECKS])

        with contextlib.suppress(Unsatisfiable):  # where nothing is asked, nothing of it can be wrong
            asked()

    ask(GenerationMode.POSITIVE)
    ask(GenerationMode.NEGATIVE)
    if method == "POST" and "multipart/form-data" not in str(operation.definition.raw):
        ask(GenerationMode.POSITIVE, mended)
    assert sum(statuses.values()) >= (EXAMPLES // 3 if "{" in path or method == "POST" else 1)
    print(method, path, dict(statuses))
    assert statuses[200] or path in NEVER_MET, statuses


def test_the_description_names_every_call_and_nothing_that_never_happens(described):
    whole = described.raw_schema
    assert sum(map(len, whole["paths"].values())) >= OPERATIONS
    for path, calls in whole["paths"].items():
        for call in calls.values():
            assert call.get("summary") or call.get("description"), path
            assert "422" not in call["responses"]
    assert whole["info"]["version"] == smalti.__version__
