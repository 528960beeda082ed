"""smalti's own calls over HTTP: generate, inpaint, outpaint, vary, encode, decode, embed, replay; and their streams."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Depends, Request, Response
from numpy.typing import NDArray

from smalti.drawing.generator import Generator
from smalti.drawing.result import Result, Step
from smalti.errors import UsageError
from smalti.loading.replay import again, given_picture
from smalti.saving.recipe import read_recipe
from smalti.web.api.capabilities import capabilities
from smalti.web.api.requests import (
    Decode,
    Drawing,
    Drawn,
    DrawnPicture,
    Embed,
    Encode,
    Failed,
    Features,
    FromImage,
    Generate,
    Inpaint,
    Outpaint,
    Pictures,
    Replay,
    Tokens,
    Vary,
)
from smalti.web.asking import client_of, desk_of, unless_gone
from smalti.web.calls import Call
from smalti.web.desk.desk import Desk, Place
from smalti.web.events import KIND, Events
from smalti.web.pictures import (
    MEDIA,
    file_of,
    from_field,
    from_list,
    from_text,
    image_file,
    named_file,
    opened,
    previews_of,
    to_text,
)

REFUSALS: dict[int | str, dict[str, Any]] = {
    status: {"model": Failed, "description": text}
    for status, text in (
        (400, "A value that is not allowed; the message says what is."),
        (401, "No token."),
        (403, "A page of another site."),
        (404, "No such bundle."),
        (408, "The body did not arrive in time."),
        (409, "Something that this bundle cannot do."),
        (413, "Too large."),
        (429, "All places are taken; Retry-After says when to come again."),
        (503, "Loading, about to end, or out of time."),
    )
}
PICTURE: dict[int | str, dict[str, Any]] = {
    200: {"content": {kind: {} for kind in MEDIA.values()}, "description": "By Accept: JSON, or the picture or sheet."}
}
EVENTS: dict[int | str, dict[str, Any]] = {
    200: {"content": {KIND: {}}, "description": "Events `step`, then `done`, or `error`."}
}
ARGUMENTS = ("image", "mask", "feather", "fit", "left", "top", "right", "bottom", "strength")
"""Fields of bodies that are arguments of the call by the same name."""
Asked = Annotated[Desk, Depends(desk_of)]

router = APIRouter(prefix="/api", tags=["smalti"], responses=REFUSALS)


@router.get("/capabilities")
async def read_capabilities(desk: Asked) -> dict[str, Any]:
    """Say what bundles are here, what labels, sizes and options they have, and what one request may ask for."""
    return capabilities(desk)


@router.post("/generate", response_model=Drawn, responses=PICTURE)
async def generate(body: Generate, request: Request, desk: Asked) -> Any:
    """Draw images."""
    async with _place(desk, request, body) as place:
        settings = _call("generate", body, place).settings(place.generator)
        return await _drawn(request, body, await unless_gone(request, place.draw(settings)))


@router.post("/inpaint", response_model=Drawn, responses=PICTURE)
async def inpaint(body: Inpaint, request: Request, desk: Asked) -> Any:
    """Repaint the part of an image where its mask is white."""
    return await _whole("inpaint", body, request, desk)


@router.post("/outpaint", response_model=Drawn, responses=PICTURE)
async def outpaint(body: Outpaint, request: Request, desk: Asked) -> Any:
    """Paint on beyond the edges of an image."""
    return await _whole("outpaint", body, request, desk)


@router.post("/vary", response_model=Drawn, responses=PICTURE)
async def vary(body: Vary, request: Request, desk: Asked) -> Any:
    """Draw variations of an image."""
    return await _whole("vary", body, request, desk)


@router.post("/generate/stream", response_class=Response, responses=EVENTS)
async def stream_generate(body: Generate, request: Request, desk: Asked) -> Any:
    """Draw images step by step: events `step` with a rough picture each, then `done` with what generate answers."""
    return await _streamed("generate", body, request, desk)


@router.post("/inpaint/stream", response_class=Response, responses=EVENTS)
async def stream_inpaint(body: Inpaint, request: Request, desk: Asked) -> Any:
    """Repaint a part of an image step by step."""
    return await _streamed("inpaint", body, request, desk)


@router.post("/outpaint/stream", response_class=Response, responses=EVENTS)
async def stream_outpaint(body: Outpaint, request: Request, desk: Asked) -> Any:
    """Paint on beyond the edges of an image step by step."""
    return await _streamed("outpaint", body, request, desk)


@router.post("/vary/stream", response_class=Response, responses=EVENTS)
async def stream_vary(body: Vary, request: Request, desk: Asked) -> Any:
    """Draw variations of an image step by step."""
    return await _streamed("vary", body, request, desk)


@router.post("/encode")
async def encode(body: Encode, request: Request, desk: Asked) -> Tokens:
    """Encode images of one size to tokens."""
    async with _place(desk, request, body) as place:
        images = from_list("images", body.images, place.generator.limits)

        def work(generator: Generator, gone: threading.Event) -> list[Any]:
            return generator.encode(images, body.resolution, fit=body.fit, cancel=gone).tolist()

        return Tokens(tokens=await unless_gone(request, place.work(work)))


@router.post("/decode")
async def decode(body: Decode, request: Request, desk: Asked) -> Pictures:
    """Decode tokens to images."""
    async with _place(desk, request, body) as place:
        place.generator.limits.check_count(len(body.tokens), "tokens: images")
        tokens, box = _grids(body.tokens), body.box

        def work(generator: Generator, gone: threading.Event) -> list[str]:
            asked: Any = None if box is None else tuple(box)
            images = generator.decode(tokens, body.resolution, box=asked, cancel=gone)
            return [to_text(image_file(image, body.format, body.quality)) for image in images]

        return Pictures(pictures=await unless_gone(request, place.work(work)))


@router.post("/embed")
async def embed(body: Embed, request: Request, desk: Asked) -> Features:
    """Describe images by features: the product of two rows says how alike two images are, at most 1."""
    async with _place(desk, request, body) as place:
        images = from_list("images", body.images, place.generator.limits)

        def work(generator: Generator, gone: threading.Event) -> list[Any]:
            return generator.embed(images, cancel=gone).tolist()

        return Features(features=await unless_gone(request, place.work(work)))


@router.post("/replay", response_model=Drawn, responses=PICTURE)
async def replay(body: Replay, request: Request, desk: Asked) -> Any:
    """Draw again what a file of smalti's shows: the same pixels."""
    content = from_text("source", body.source)
    opened("source", content, desk.serving.limits)  # of a known kind, and not too large
    recipe = read_recipe(named_file("source", content))
    names = [entry.name for entry in desk.shelf.entries]
    asked = body.bundle or (recipe.bundle if recipe.bundle in names else None)
    async with desk.reserve(client_of(request, body.user), asked) as place:
        limits = place.generator.limits
        pictures = {
            name: None if text is None else from_field(name, text, limits)
            for name, text in (("image", body.image), ("mask", body.mask))
        }
        given = {name: given_picture(name, picture, recipe) for name, picture in pictures.items()}

        def work(generator: Generator, gone: threading.Event) -> Result:
            return again(generator, recipe, **given, cancel=gone)

        return await _drawn(request, body, await unless_gone(request, place.work(work)))


def _place(desk: Desk, request: Request, body: Drawing | Encode | Decode | Embed) -> Place:
    return desk.reserve(client_of(request, body.user), body.bundle)


def _call(method: Any, body: Drawing, place: Place) -> Call:
    """Return the call that a body asks for, with its pictures opened. Raises UsageError."""
    arguments = {name: getattr(body, name) for name in ARGUMENTS if name in type(body).model_fields}
    for name in ("image", "mask"):
        if name in arguments:
            arguments[name] = from_field(name, arguments[name], place.generator.limits)
    return Call(method, body.options(), body.count, body.seed, arguments).checked(place.generator)


async def _whole(method: Any, body: FromImage, request: Request, desk: Desk) -> Any:
    async with _place(desk, request, body) as place:
        call = _call(method, body, place)
        return await _drawn(request, body, await unless_gone(request, place.work(call.whole)))


async def _streamed(method: Any, body: Drawing, request: Request, desk: Desk) -> Events:
    """Answer with events. What is wrong is told by the status, before the first of them."""
    async with AsyncExitStack() as held:
        place = await held.enter_async_context(_place(desk, request, body))
        call = _call(method, body, place)

        def work(generator: Generator, gone: threading.Event, tell: Callable[[Any], None]) -> None:
            def told(step: Step) -> None:
                pictures = list(map(to_text, previews_of(step)))
                tell(("step", {"index": step.index, "total": step.total, "previews": pictures}))

            tell(("done", answer_of(call.followed(generator, gone, told), body.format, body.quality).model_dump()))

        return Events(place, held.pop_all(), work, lambda told: [told])


def answer_of(result: Result, format: str, quality: int | None) -> Drawn:
    """Return what a draw answers as JSON."""
    pairs = zip(result.settings.seeds, result.settings.labels)
    return Drawn(
        bundle=result.bundle.manifest.name,
        width=result.images[0].width,
        height=result.images[0].height,
        format=format,
        pictures=[
            DrawnPicture(seed=seed, label=label, data=to_text(file_of(result, index, format, quality)))
            for index, (seed, label) in enumerate(pairs)
        ],
        options={name: value for name, value in result.settings.options.items() if value is not None},
        seconds={stage: getattr(result.timings, stage) for stage in ("network", "draw", "decoder", "host", "total")},
        provider=result.report.actual,
    )


async def _drawn(request: Request, body: Drawing | Replay, result: Result) -> Any:
    """Answer JSON, or the file itself where that is what the client accepts: several images are a sheet."""
    kind = MEDIA[body.format]
    accepted = request.headers.get("accept", "*/*")
    if kind in accepted or (accepted.startswith("image/") and "json" not in accepted):
        file = await asyncio.to_thread(file_of, result, None, body.format, body.quality)
        return Response(file, media_type=kind)
    return await asyncio.to_thread(answer_of, result, body.format, body.quality)


def _grids(tokens: list[list[list[int]]]) -> NDArray[np.int64]:
    """Return tokens as an array [N, h, w]. Raises UsageError where rows have different lengths, or are empty."""
    lengths = {len(row) for grid in tokens for row in grid}
    if len({len(grid) for grid in tokens}) != 1 or len(lengths) != 1 or not min(lengths):
        raise UsageError("tokens: images of as many rows each are needed, and rows of as many tokens, at least one")
    try:
        return np.array(tokens, np.int64)
    except OverflowError:
        raise UsageError("tokens: whole numbers from 0 to the number of codes - 1 are needed") from None
