"""Bodies of requests to smalti's own calls. Options of a draw are those that the families declare."""

from __future__ import annotations

import re
from typing import Annotated, Any, Final, Literal, get_args, get_origin

import msgspec
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema, create_model

from smalti.codec.fit import Fit
from smalti.families.settings import DECLARED, MAX_SEED, Options

Seed = Annotated[int, Field(ge=0, le=MAX_SEED)]
Label = str | int | None
Format = Literal["png", "jpeg", "webp"]
LONGEST_USER = 200
RANGES: Final[dict[str, dict[str, float]]] = {
    "temperature": {"minimum": 0.01, "maximum": 100},
    "final_temperature": {"minimum": 0.01, "maximum": 100},
    "top_k": {"minimum": 0},
    "top_p": {"exclusiveMinimum": 0, "maximum": 1},
    "guidance": {"minimum": 0, "maximum": 100},
    "steps": {"minimum": 1},
    "choice_temperature": {"minimum": 0, "maximum": 1e6},
    "remask": {"minimum": 0, "maximum": 1},
    "min_steps": {"minimum": 0},
    "stride": {"minimum": 1},
    "resolution": {"minimum": 1},
}
"""What the description says of options. The library checks them, and says what is allowed in its own words."""


SIZE: Final = re.compile(r"([1-9][0-9]{0,5})x([1-9][0-9]{0,5})", re.ASCII)
"""A size as a text."""
SIZES: Final[dict[str, Any]] = {
    "anyOf": [
        {"type": "array", "items": {"type": "integer"}, "minItems": 2, "maxItems": 2},
        {"type": "string", "pattern": f"^{SIZE.pattern}$"},
        {"type": "null"},
    ],
}


class Body(BaseModel):
    """A body with no other fields than those named, and no numbers in texts."""

    model_config = ConfigDict(extra="forbid", strict=True)


def _taken(kind: Any) -> Any:
    """Return a declared type as JSON has it: a pair is a list of two, and one share may stand for both of a pair."""
    if get_origin(kind) is tuple:
        first = get_args(kind)[0]
        pair = Annotated[list[first], Field(min_length=2, max_length=2)]
        return first | pair if first is float else pair
    if get_origin(kind) is Literal:
        return kind
    if members := get_args(kind):
        taken = Any
        for index, member in enumerate(members):
            taken = _taken(member) if index == 0 else taken | _taken(member)
        return taken
    return kind


def _fields() -> dict[str, Any]:
    """Return a field for every option of a draw."""
    found: dict[str, Any] = {}
    for name, declared in DECLARED.items():
        kind, *notes = get_args(declared)
        text = next(note.description for note in notes if isinstance(note, msgspec.Meta))
        extra: Any = RANGES.get(name)
        found[name] = (_taken(kind) | None, Field(default=None, description=text, json_schema_extra=extra))
    return found


Sampling: Any = create_model("Sampling", __base__=Body, **_fields())
"""Options of a draw; what is left out is the bundle's own default."""


def _pair(size: Any) -> Any:
    """Return width and height from a text such as 512x256; what is none stays as it is."""
    if not isinstance(size, str):
        return size
    if (found := SIZE.fullmatch(size)) is None:
        raise ValueError('width and height in pixels are needed, such as [512, 256] or "512x256"')
    return [int(found[1]), int(found[2])]


class Drawing(Sampling):
    """What every draw is asked for."""

    size: Annotated[
        Annotated[list[int], Field(min_length=2, max_length=2)] | None, BeforeValidator(_pair), WithJsonSchema(SIZES)
    ] = Field(None, description='Width and height in pixels: [512, 256], or "512x256"; the bundle\'s own by default.')
    bundle: str | None = Field(None, description="Name of a bundle of this server; its first by default.")
    count: int | None = Field(None, ge=1, description="Images; 1 by default.")
    seed: Seed = Field(0, description="Seed of the first image; the next has one more.")
    seeds: list[Seed] | None = Field(None, min_length=1, description="Seed of each image, in place of count and seed.")
    label: Label | list[Label] = Field(None, description="Name or index of a label, or a list with one for each image.")
    format: Format = Field("png", description="png, jpeg or webp.")
    quality: int | None = Field(None, ge=1, le=100, description="1 to 100, of JPEG and WebP.")
    user: str = Field("", max_length=LONGEST_USER, description="For whom it is: users take turns.")

    def options(self) -> Options:
        """Return the options of the draw, and seeds and label, as the library takes them."""
        given = {name: getattr(self, name) for name in (*DECLARED, "seeds", "label")}
        return Options(**{name: value for name, value in given.items() if value is not None})


class Generate(Drawing):
    """Draw images."""


class FromImage(Drawing):
    """Draw from an image."""

    image: str = Field(description="A PNG, JPEG or WebP in base64, or as a data URL.")
    fit: Fit | None = Field(None, description="How an image of another size is brought to one that fits.")


class Inpaint(FromImage):
    """Repaint a part of an image; its other pixels stay exactly what they are."""

    mask: str = Field(description="An image of the same size: white is repainted.")
    feather: int = Field(0, ge=0, description="Pixels around the mask in which the drawn picture fades.")


class Outpaint(FromImage):
    """Paint on beyond the edges of an image."""

    left: int = Field(0, ge=0, description="Pixels to add on the left.")
    top: int = Field(0, ge=0, description="Pixels to add at the top.")
    right: int = Field(0, ge=0, description="Pixels to add on the right.")
    bottom: int = Field(0, ge=0, description="Pixels to add at the bottom.")
    feather: int = Field(0, ge=0, description="Pixels in which the drawn picture fades into the image.")


class Vary(FromImage):
    """Draw variations of an image."""

    strength: float = Field(0.3, gt=0, le=1, description="Share of the image's tokens that is drawn anew.")


class Encode(Body):
    """Encode images of one size to tokens."""

    bundle: str | None = None
    images: list[str] = Field(min_length=1, description="Images in base64.")
    resolution: int | None = None
    fit: Fit | None = None
    user: str = Field("", max_length=LONGEST_USER)


class Decode(Body):
    """Decode tokens to images."""

    bundle: str | None = None
    tokens: list[list[list[int]]] = Field(min_length=1, description="Images, rows, columns: 0 .. codes - 1.")
    resolution: int | None = None
    box: list[int] | None = Field(None, min_length=4, max_length=4, description="Left, top, right, bottom in pixels.")
    format: Format = "png"
    quality: int | None = Field(None, ge=1, le=100)
    user: str = Field("", max_length=LONGEST_USER)


class Embed(Body):
    """Describe images by features of length 1."""

    bundle: str | None = None
    images: list[str] = Field(min_length=1, description="Images in base64, of any sizes.")
    user: str = Field("", max_length=LONGEST_USER)


class Replay(Body):
    """Draw again what a file of smalti's shows."""

    source: str = Field(description="A PNG, JPEG or WebP that smalti wrote, in base64.")
    image: str | None = Field(None, description="The image that the draw began from, if it did.")
    mask: str | None = Field(None, description="The mask of what was inpainted.")
    bundle: str | None = Field(None, description="Name of the bundle; by default the one that the file names.")
    format: Format = "png"
    quality: int | None = Field(None, ge=1, le=100)
    user: str = Field("", max_length=LONGEST_USER)


class DrawnPicture(BaseModel):
    """A picture that was drawn."""

    seed: int
    label: str | None
    data: str = Field(description="The file, in base64; it holds its recipe.")


class Drawn(BaseModel):
    """What a draw answers."""

    bundle: str
    width: int
    height: int
    format: str
    pictures: list[DrawnPicture]
    options: dict[str, Any] = Field(description="Options that were in use.")
    seconds: dict[str, float] = Field(description="Seconds of network, draw, decoder and host.")
    provider: str


class Pictures(BaseModel):
    """Decoded pictures."""

    pictures: list[str] = Field(description="Files in base64.")


class Tokens(BaseModel):
    """Encoded images."""

    tokens: list[list[list[int]]]


class Features(BaseModel):
    """Features of images."""

    features: list[list[float]]


class Failure(BaseModel):
    """Why a request was refused."""

    message: str
    type: str
    param: str | None
    code: str


class Failed(BaseModel):
    """What a request is told that was refused."""

    error: Failure
