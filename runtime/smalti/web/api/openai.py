"""OpenAI's images API: a prompt is a label, a model is a bundle, a size is a resolution or a canvas."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Annotated, Any, Final

import numpy as np
from fastapi import APIRouter, Depends, Request
from numpy.typing import NDArray
from pydantic import ValidationError
from starlette.datastructures import FormData, UploadFile

from smalti.codec.pictures import read
from smalti.drawing.generator import Generator
from smalti.drawing.result import Result, Step
from smalti.web.api.native import REFUSALS
from smalti.web.api.openai_bodies import (
    Edits,
    Generations,
    Image,
    Images,
    ImagesAnswer,
    Model,
    Models,
    TokenKinds,
    Usage,
    edits_form,
)
from smalti.web.api.wanted import fresh_seed, label_of, size_of, sized
from smalti.web.asking import client_of, desk_of, unless_gone
from smalti.web.calls import Call
from smalti.web.desk.desk import Desk, Place
from smalti.web.events import KIND, Events
from smalti.web.failures import Refused, invalid
from smalti.web.pictures import file_of, image_file, opened, to_text

Asked = Annotated[Desk, Depends(desk_of)]
STREAMED: Final[dict[int | str, dict[str, Any]]] = {
    200: {"content": {KIND: {}}, "description": "JSON, or events where stream is true."}
}
STARTED: Final = int(time.time())
FIELDS: Final = 100
FIELD_BYTES: Final = 2**16
"""Most fields of a form, and bytes of one that is no file."""
IMAGE: Final = ("image", "image[]")

router = APIRouter(prefix="/v1", tags=["openai"], responses=REFUSALS)


@router.post("/images/generations", response_model=ImagesAnswer, responses=STREAMED)
async def generations(body: Generations, request: Request, desk: Asked) -> Any:
    """Draw images of the label that the prompt names."""
    body.check()
    async with AsyncExitStack() as held:
        place = await held.enter_async_context(_place(desk, request, body))
        generator = place.generator
        call = _call("generate", body, generator, size_of(body.size))
        settings = call.settings(generator)
        if body.stream:
            return _streamed(call, body, place, held.pop_all(), "image_generation", 0)
        return await _answered(body, await unless_gone(request, place.draw(settings)), 0)


@router.post(
    "/images/edits", response_model=ImagesAnswer, responses=STREAMED, openapi_extra={"requestBody": edits_form()}
)
async def edits(request: Request, desk: Asked) -> Any:
    """Repaint an image where its mask, or the image itself, is transparent; its other pixels stay what they are."""
    form = await request.form(max_files=len(IMAGE) + 1, max_fields=FIELDS, max_part_size=FIELD_BYTES)
    body = _edits(form)
    body.check()
    async with AsyncExitStack() as held:
        place = await held.enter_async_context(_place(desk, request, body))
        generator = place.generator
        image, mask = await _file(form, IMAGE, generator), await _file(form, ("mask",), generator)
        if image is None:
            raise Refused(400, "invalid_body", "image: a file is needed: a PNG, JPEG or WebP", param="image")
        if size_of(body.size) not in (None, image.size):
            told = f"size {body.size}: an image is drawn on at its own size, {image.width}x{image.height}; leave it out"
            raise Refused(400, "invalid_size", told, param="size")
        call = await asyncio.to_thread(_edit, body, generator, image, mask)
        tokens = image.width * image.height // generator.manifest.resolution(call.options.get("resolution")).factor ** 2
        if body.stream:
            return _streamed(call, body, place, held.pop_all(), "image_edit", tokens)
        return await _answered(body, await unless_gone(request, place.work(call.whole)), tokens)


@router.get("/models")
async def models(desk: Asked) -> Models:
    """List the bundles of this server."""
    return Models(data=[Model(id=entry.name, created=STARTED) for entry in desk.shelf.entries])


@router.get("/models/{name:path}")
async def model(name: str, desk: Asked) -> Model:
    """Describe a bundle."""
    return Model(id=desk.shelf.find(name, "model").name, created=STARTED)


def _place(desk: Desk, request: Request, body: Images) -> Place:
    return desk.reserve(client_of(request, body.asks_for), body.model, param="model")


def _edits(form: FormData) -> Edits:
    """Return the fields of a form, which are texts, as what they stand for. Raises Refused."""
    fields: dict[str, Any] = {}
    for name, value in form.multi_items():
        if name in (*IMAGE, "mask"):
            continue
        if isinstance(value, UploadFile) or name in fields:
            raise Refused(400, "invalid_body", f"{name[:100]}: one text is needed", param=name[:100])
        fields[name] = value
    try:
        return Edits.model_validate(fields, strict=False)
    except ValidationError as error:
        raise invalid(error.errors(include_input=False)) from None


async def _file(form: FormData, names: tuple[str, ...], generator: Generator) -> Any:
    """Open the picture in a form; None where there is none. Raises Refused for several, UsageError for no picture."""
    found = [value for name in names for value in form.getlist(name)]
    if len(found) > 1:
        raise Refused(400, "invalid_body", f"{names[0]}: one file is drawn on, not {len(found)}", param=names[0])
    if not found or not isinstance(found[0], UploadFile):
        if found and found[0]:
            raise Refused(400, "invalid_body", f"{names[0]}: a file is needed, with a name", param=names[0])
        return None
    return opened(names[0], await found[0].read(), generator.limits)


def _call(method: Any, body: Images, generator: Generator, size: tuple[int, int] | None) -> Call:
    options: Any = {**body.options(), **sized(generator, size, body.resolution)}
    if (label := label_of(generator, body.prompt)) is not None:
        options["label"] = label
    return Call(method, options, body.n, fresh_seed() if body.seed is None else body.seed)


def _edit(body: Edits, generator: Generator, image: Any, mask: Any) -> Call:
    """Return the call of an edit: what its mask shows, else what the image's own transparency shows, is repainted."""
    call = _call("inpaint", body, generator, None if body.fit else image.size)
    call.options.pop("size", None)  # the image says how large
    arguments = {"image": image, "fit": body.fit}
    repaint = _transparent(image if mask is None else mask)
    if mask is not None and repaint is None:
        told = (
            "mask: an image is needed that is transparent where to repaint; one in black and white is for /api/inpaint"
        )
        raise Refused(400, "invalid_mask", told, param="mask")
    if repaint is not None:
        if body.strength is not None:
            told = "strength: it is for an image without a mask, which is varied as a whole; leave it out"
            raise Refused(400, "invalid_value", told, param="strength")
        return replace(call, arguments=arguments | {"mask": repaint, "feather": body.feather or 0}).checked(generator)
    if body.strength is None:
        told = (
            "mask: give an image that is transparent where to repaint, or an image that is transparent there itself; "
            "or strength, such as 0.3, to vary the image as a whole"
        )
        raise Refused(400, "invalid_mask", told, param="mask")
    return replace(call, method="vary", arguments=arguments | {"strength": body.strength}).checked(generator)


def _transparent(picture: Any) -> NDArray[np.bool_] | None:
    """Return where a picture is more transparent than not, bool [H, W]; None where it is nowhere."""
    alpha = read(picture, mask=True).alpha
    return None if alpha is None or alpha.min() > 127 else np.asarray(alpha <= 127)


def _streamed(call: Call, body: Images, place: Place, held: AsyncExitStack, kind: str, given: int) -> Events:
    """Answer with rough pictures of the first image, and then all images as they are."""

    def work(generator: Generator, gone: threading.Event, tell: Callable[[Any], None]) -> None:
        index = 0

        def told(step: Step) -> None:
            nonlocal index
            preview = step.preview()[0]
            shown = to_text(image_file(preview, body.format, body.compression))
            told = _event(body, preview.size, shown) | {"partial_image_index": index}
            tell([(f"{kind}.partial_image", {"type": f"{kind}.partial_image", **told})])
            index += 1

        answer = _answer(body, call.followed(generator, gone, told, body.partial_images or 0), given)
        size = tuple(map(int, answer.size.split("x")))
        tell(
            [
                (
                    f"{kind}.completed",
                    {"type": f"{kind}.completed", **_event(body, size, image.b64_json)}
                    | {"usage": answer.usage.model_dump(), "seed": image.seed, "label": image.label},
                )
                for image in answer.data
            ]
        )

    return Events(place, held, work, lambda told: told)


def _event(body: Images, size: tuple[int, ...], file: str) -> dict[str, Any]:
    return {
        "b64_json": file,
        "background": "opaque",
        "created_at": int(time.time()),
        "output_format": body.format,
        "quality": "auto",
        "size": f"{size[0]}x{size[1]}",
    }


async def _answered(body: Images, result: Result, given: int) -> ImagesAnswer:
    return await asyncio.to_thread(_answer, body, result, given)


def _answer(body: Images, result: Result, given: int) -> ImagesAnswer:
    """Return what a draw answers; ``given`` is the number of tokens of the image that it began from."""
    labels = sum(label is not None for label in set(result.settings.labels))
    drawn = result.tokens.size
    return ImagesAnswer(
        created=int(time.time()),
        data=[
            Image(b64_json=to_text(file_of(result, index, body.format, body.compression)), seed=seed, label=label)
            for index, (seed, label) in enumerate(zip(result.settings.seeds, result.settings.labels))
        ],
        output_format=body.format,
        size=f"{result.images[0].width}x{result.images[0].height}",
        usage=Usage(
            input_tokens=labels + given,
            input_tokens_details=TokenKinds(image_tokens=given, text_tokens=labels),
            output_tokens=drawn,
            output_tokens_details=TokenKinds(image_tokens=drawn, text_tokens=0),
            total_tokens=labels + given + drawn,
        ),
    )
