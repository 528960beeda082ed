"""Bodies of OpenAI's images API. Options of a draw are fields of their own; ``null`` stands for what is left out."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from smalti.codec.fit import Fit
from smalti.families.settings import DECLARED, Options
from smalti.web.api.requests import LONGEST_USER, Sampling, Seed
from smalti.web.failures import Refused

Format = Literal["png", "jpeg", "webp"]
FROM_SIZE = ("size", "resolution")


class Images(Sampling):
    """What a request for images may hold."""

    prompt: str = Field("", max_length=32000, description="Name of a label; empty: the seed draws one.")
    model: str | None = Field(None, description="Name of a bundle of this server; its first by default.")
    n: int | None = Field(None, ge=1, description="Images; 1 by default.")
    size: str | None = Field(None, description='Such as "256x256"; "auto" is the bundle\'s own.')
    seed: Seed | None = Field(None, description="Seed of the first image, the next has one more; by default any.")
    response_format: str | None = Field(None, description="b64_json; this server keeps no files that a URL could name.")
    output_format: Format | None = Field(None, description="png, jpeg or webp; png by default.")
    output_compression: int | None = Field(None, ge=0, le=100, description="Quality of JPEG and WebP, 0 to 100.")
    stream: bool | None = Field(None, description="Answer with events.")
    partial_images: int | None = Field(None, ge=0, le=3, description="Rough pictures before the last, with stream.")
    user: str | None = Field(None, max_length=LONGEST_USER, description="For whom it is: users take turns.")
    safety_identifier: str | None = Field(None, max_length=LONGEST_USER, description="As user.")
    quality: str | None = Field(None, description="It is ignored.")
    background: str | None = Field(None, description="It is ignored.")
    moderation: str | None = Field(None, description="It is ignored.")

    @property
    def format(self) -> Format:
        """The format of the pictures."""
        return self.output_format or "png"

    @property
    def compression(self) -> int | None:
        """The quality of the pictures, 1 .. 100; None keeps the format's own. A PNG has none."""
        asked = None if self.format == "png" else self.output_compression
        return asked if asked is None else max(1, asked)

    @property
    def asks_for(self) -> str:
        """For whom it is."""
        return self.safety_identifier or self.user or ""

    def options(self) -> Options:
        """Return the options of the draw that are not about its size or label."""
        given = {name: getattr(self, name) for name in DECLARED if name not in FROM_SIZE}
        return Options(**{name: value for name, value in given.items() if value is not None})

    def check(self) -> None:
        """Raise Refused for what only OpenAI's own server can do."""
        if self.response_format not in (None, "b64_json"):
            told = "response_format: b64_json is allowed; this server keeps no files that a URL could name"
            raise Refused(400, "invalid_value", told, param="response_format")


class Generations(Images):
    """Draw images."""

    style: str | None = Field(None, description="It is ignored.")


class Edits(Images):
    """Repaint the transparent part of an image, or of its mask; without both, vary the image by ``strength``."""

    strength: float | None = Field(None, gt=0, le=1, description="Share that is drawn anew where there is no mask.")
    feather: int | None = Field(None, ge=0, description="Pixels around the mask in which the drawn picture fades.")
    fit: Fit | None = Field(None, description="How an image of another size is brought to one that fits.")
    input_fidelity: str | None = Field(None, description="It is ignored.")


def edits_form() -> dict[str, Any]:
    """Describe the form of an edit for OpenAPI: fields as texts, and files."""
    schema = Edits.model_json_schema(ref_template="#/components/schemas/{model}")
    file = {"type": "string", "format": "binary"}
    pictures = {
        "image": file | {"description": "A PNG, JPEG or WebP; image[] is taken too."},
        "mask": file | {"description": "An image of the same size: transparent where to repaint."},
    }
    content = {**schema, "properties": pictures | schema["properties"], "required": ["image"]}
    return {"required": True, "content": {"multipart/form-data": {"schema": content}}}


class Answer(BaseModel):
    """What OpenAI's clients read; they let further fields be."""

    model_config = ConfigDict(extra="forbid")


class Image(Answer):
    """An image that was drawn."""

    b64_json: str = Field(description="The file, which holds its recipe.")
    seed: int
    label: str | None


class TokenKinds(Answer):
    """Kinds of tokens."""

    image_tokens: int
    text_tokens: int


class Usage(Answer):
    """Tokens of labels and images that were given, and of those that were drawn."""

    input_tokens: int
    input_tokens_details: TokenKinds
    output_tokens: int
    output_tokens_details: TokenKinds
    total_tokens: int


class ImagesAnswer(Answer):
    """Images that were drawn."""

    created: int
    background: Literal["opaque"] = "opaque"
    data: list[Image]
    output_format: Format
    size: str
    usage: Usage


class Model(Answer):
    """A bundle."""

    id: str
    object: Literal["model"] = "model"
    created: int = Field(description="When this server began, in seconds since 1970.")
    owned_by: str = "smalti"


class Models(Answer):
    """All bundles of a server."""

    object: Literal["list"] = "list"
    data: list[Model]
