"""What clients of AUTOMATIC1111's web UI ask, such as Open WebUI: txt2img, and what they look up before.

Of the many fields that such clients send, those that mean nothing here are ignored.
"""

from __future__ import annotations

import asyncio
import json
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel, ConfigDict, Field

from smalti.drawing.result import Result
from smalti.families.settings import MAX_SEED, Options
from smalti.saving.parameters import parameters
from smalti.web.api.native import REFUSALS
from smalti.web.api.wanted import fresh_seed, label_of, sized
from smalti.web.asking import client_of, desk_of, unless_gone
from smalti.web.calls import Call
from smalti.web.desk.desk import Desk
from smalti.web.failures import Refused
from smalti.web.pictures import file_of, to_text

Asked = Annotated[Desk, Depends(desk_of)]
CHECKPOINT = "sd_model_checkpoint"
SAMPLER = "smalti"

router = APIRouter(prefix="/sdapi/v1", tags=["sdapi"], responses=REFUSALS)


class TextToImage(BaseModel):
    """What txt2img reads of a body."""

    model_config = ConfigDict(extra="ignore", strict=True)

    prompt: str = Field("", max_length=32000, description="Name of a label; empty: the seed draws one.")
    seed: int = Field(-1, ge=-1, le=MAX_SEED, description="Seed of the first image; -1: any.")
    steps: int | None = Field(None, ge=1, description="Steps; by default the bundle's own.")
    width: int | None = Field(None, ge=1, description="Pixels; by default the bundle's own size.")
    height: int | None = Field(None, ge=1, description="Pixels.")
    batch_size: int = Field(1, ge=1, description="Images of a batch.")
    n_iter: int = Field(1, ge=1, description="Batches.")
    cfg_scale: float | None = Field(None, ge=0, le=100, description="How strongly the label pulls: guidance.")
    send_images: bool = Field(True, description="Whether the answer holds the images.")
    save_images: bool = Field(False, description="It is ignored: this server keeps no images.")
    override_settings: dict[str, Any] | None = Field(None, description=f"{CHECKPOINT} names a bundle.")


class Drawn(BaseModel):
    """What txt2img answers."""

    images: list[str] = Field(description="PNGs in base64; each holds its recipe.")
    parameters: dict[str, Any] = Field(description="What was asked.")
    info: str = Field(description="What was drawn, as JSON.")


class Chosen(BaseModel):
    """What of the options may be set."""

    sd_model_checkpoint: str | None = Field(None, description="Name of the bundle for requests that name none.")


class Checkpoint(BaseModel):
    """A bundle."""

    title: str
    model_name: str
    hash: str
    sha256: str
    filename: str
    config: str | None = None


class Sampler(BaseModel):
    """A way to draw."""

    name: str
    aliases: list[str] = []
    options: dict[str, str] = {}


@router.post("/txt2img")
async def txt2img(body: TextToImage, request: Request, desk: Asked) -> Drawn:
    """Draw images of the label that the prompt names."""
    named = (body.override_settings or {}).get(CHECKPOINT)
    if named is not None and not isinstance(named, str):
        raise Refused(400, "invalid_body", f"{CHECKPOINT}: the name of a bundle is needed", param="override_settings")
    async with desk.reserve(client_of(request), named or _chosen(request, desk), param=CHECKPOINT) as place:
        generator = place.generator
        own = generator.manifest.all_resolutions[0].pixels
        size = None if body.width is body.height is None else (body.width or own, body.height or own)
        options: Any = dict(sized(generator, size))
        asked = {"label": label_of(generator, body.prompt), "steps": body.steps, "guidance": body.cfg_scale}
        options |= {name: value for name, value in asked.items() if value is not None}
        seed = fresh_seed() if body.seed < 0 else body.seed
        settings = Call("generate", Options(**options), body.batch_size * body.n_iter, seed).settings(generator)
        result = await unless_gone(request, place.draw(settings))
        return await asyncio.to_thread(_drawn, body, result)


@router.get("/options")
async def read_options(request: Request, desk: Asked) -> dict[str, Any]:
    """Say which bundle draws where none is named."""
    return {CHECKPOINT: _chosen(request, desk), "samples_format": "png"}


@router.post("/options")
async def set_options(body: Chosen, request: Request, desk: Asked) -> None:
    """Choose the bundle that draws where none is named, for all clients of txt2img. Other options are ignored."""
    if body.sd_model_checkpoint is not None:
        request.app.state.checkpoint = desk.shelf.find(body.sd_model_checkpoint, CHECKPOINT).name


@router.get("/sd-models")
async def sd_models(desk: Asked) -> list[Checkpoint]:
    """List the bundles of this server."""
    return [
        Checkpoint(
            title=entry.name,
            model_name=entry.name,
            hash=entry.bundle.digest[:10],
            sha256=entry.bundle.digest,
            filename=entry.name,
        )
        for entry in desk.shelf.entries
    ]


@router.get("/samplers")
async def samplers() -> list[Sampler]:
    """Name the one way to draw; a bundle has no other."""
    return [Sampler(name=SAMPLER)]


@router.get("/schedulers")
async def schedulers() -> list[dict[str, str]]:
    """Name the one schedule."""
    return [{"name": "automatic", "label": "Automatic"}]


def _chosen(request: Request, desk: Desk) -> str:
    return getattr(request.app.state, "checkpoint", desk.shelf.entries[0].name)


def _drawn(body: TextToImage, result: Result) -> Drawn:
    settings, manifest = result.settings, result.bundle.manifest
    steps = settings.value("steps") or result.tokens[0].size
    width, height = result.images[0].size
    info = {
        "prompt": body.prompt,
        "all_prompts": [label or "" for label in settings.labels],
        "seed": settings.seeds[0],
        "all_seeds": list(settings.seeds),
        "width": width,
        "height": height,
        "steps": steps,
        "cfg_scale": settings.guidance,
        "batch_size": body.batch_size,
        "sampler_name": SAMPLER,
        "sd_model_name": manifest.name,
        "sd_model_hash": result.bundle.digest[:10],
        "infotexts": [parameters(result.recipe(index), manifest.family, steps) for index in range(len(result.images))],
    }
    files = [to_text(file_of(result, index)) for index in range(len(result.images))] if body.send_images else []
    return Drawn(images=files, parameters=body.model_dump(), info=json.dumps(info))
