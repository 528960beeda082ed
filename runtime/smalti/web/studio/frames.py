"""Frames of the studio's socket: a header of JSON, and files behind it. See :mod:`smalti.web.studio.socket`."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final, TypeAlias

import msgspec

from smalti.errors import UsageError
from smalti.families.checks import shown
from smalti.families.settings import DECLARED, MAX_SEED, Options, check_names
from smalti.web.calls import Call, Method

LONGEST_HEADER: Final = 2**16
_LENGTH: Final = struct.Struct("<I")
Files: TypeAlias = dict[str, bytes]
Pixels: TypeAlias = Annotated[int, msgspec.Meta(ge=0)]


class Framed(msgspec.Struct, forbid_unknown_fields=True, kw_only=True, tag_field="do"):
    """What every frame of a page has."""

    id: int
    """Number of what is asked; answers have the same."""
    files: list[tuple[str, Pixels]] = []
    """Name and length in bytes of each file behind the header."""


class Draw(Framed, tag="draw"):
    """Draw pictures: a method of a generator, its options and its files ``image`` and ``mask``."""

    call: Method = "generate"
    bundle: str | None = None
    count: Annotated[int, msgspec.Meta(ge=1)] = 1
    seed: str = "0"
    label: str | None = None
    options: dict[str, Any] = {}
    feather: Pixels | None = None
    fit: str | None = None
    left: Pixels | None = None
    top: Pixels | None = None
    right: Pixels | None = None
    bottom: Pixels | None = None
    strength: float | None = None

    def to_call(self, pictures: Mapping[str, Any]) -> Call:
        """Return the call that is asked for, from ``pictures`` that are opened. Raises UsageError."""
        named = {name: getattr(self, name) for name in ("feather", "fit", "left", "top", "right", "bottom", "strength")}
        arguments = {name: value for name, value in named.items() if value is not None}
        needed = {"generate": (), "inpaint": ("image", "mask")}.get(self.call, ("image",))
        for name in needed:
            if name not in pictures:
                raise UsageError(f"{name}: {self.call} needs it as a file")
        if unknown := [name for name in arguments if name not in ARGUMENTS[self.call]]:
            raise UsageError(f"{unknown[0]}: {self.call} has no such argument; leave it out")
        arguments |= {name: pictures[name] for name in needed}
        options = Options(**options_of(self.options))  # pyright: ignore[reportArgumentType]
        if self.label is not None:
            options["label"] = self.label
        return Call(self.call, options, self.count, seed_of(self.seed), arguments)


class Replay(Framed, tag="replay"):
    """Draw again what the file ``source`` shows, or the picture ``name`` of the gallery."""

    name: str | None = None


class Stop(Framed, tag="stop"):
    """End the draw of this number."""


Asked: TypeAlias = Draw | Replay | Stop
ARGUMENTS: Final[Mapping[str, Sequence[str]]] = {
    "generate": (),
    "inpaint": ("feather", "fit"),
    "outpaint": ("feather", "fit", "left", "top", "right", "bottom"),
    "vary": ("fit", "strength"),
}


def options_of(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return options of a draw as the library takes them. Raises UsageError for an unknown one, or of another type."""
    check_names(given)
    found: dict[str, Any] = {}
    for name, value in given.items():
        if name not in DECLARED:
            raise UsageError(f"{name}: it has a field of its own, beside the options")
        try:
            found[name] = msgspec.convert(value, DECLARED[name] | None)
        except msgspec.ValidationError as error:
            raise UsageError(f"{name} {shown(value)}: {error}") from None
    return {name: value for name, value in found.items() if value is not None}


def seed_of(text: str) -> int:
    """Return a seed, which is text since scripts round large numbers. Raises UsageError."""
    if not (text.isascii() and text.isdecimal() and len(text) <= 20 and int(text) <= MAX_SEED):
        raise UsageError(f"seed {text[:40]}: allowed are 0 .. {MAX_SEED}")
    return int(text)


def packed(header: Mapping[str, Any], files: Sequence[tuple[str, bytes]] = ()) -> bytes:
    """Return a frame: the header's length in four bytes, the header, and files behind it."""
    named = [(name, len(content)) for name, content in files]
    text = msgspec.json.encode({**header, "files": named})
    return b"".join((_LENGTH.pack(len(text)), text, *(content for _, content in files)))


def unpacked(frame: bytes) -> tuple[Asked, Files]:
    """Return what a frame of a page asks, and its files. Raises UsageError for one that is not as described."""
    if len(frame) < _LENGTH.size or (length := _LENGTH.unpack_from(frame)[0]) > LONGEST_HEADER:
        raise UsageError(f"frame: four bytes with the length of a header, at most {LONGEST_HEADER}, are needed first")
    try:
        asked = msgspec.json.decode(frame[_LENGTH.size : _LENGTH.size + length], type=Asked)
    except (msgspec.MsgspecError, UnicodeError) as error:
        raise UsageError(f"frame: its header cannot be read: {error}") from None
    place, files = _LENGTH.size + length, Files()
    for name, size in asked.files:
        files[name] = frame[place : place + size]
        place += size
    if place != len(frame):
        raise UsageError(f"frame: it has {len(frame)} bytes, and its header tells of {place}")
    return asked, files
