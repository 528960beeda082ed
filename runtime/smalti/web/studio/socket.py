"""The studio's socket, by which a page asks for draws and sees them come into being.

All frames are binary. A frame is the length of its header (four bytes, the lowest first), the header (JSON in UTF-8,
an object), and files behind it, one after the other. The header's ``files`` lists ``[name, bytes]`` of each, and its
``id`` is a number that the page chooses for each draw. Seeds are texts, since scripts round large whole numbers.

A page sends ``{"do": ...}``:

========== ============================================================================================================
``draw``   ``call`` (generate, inpaint, outpaint, vary), ``bundle``, ``count``, ``seed``, ``label``, ``options``, and
           what the call takes: ``feather``, ``fit``, ``left``, ``top``, ``right``, ``bottom``, ``strength``; files
           ``image`` and ``mask``, as they are on disk
``replay`` ``name`` of a picture of the gallery, or a file ``source``; files ``image`` and ``mask`` where the gallery
           has not kept what the draw began from
``stop``   ends the draw of this ``id``
========== ============================================================================================================

The server answers ``{"is": ...}``:

=========== ===========================================================================================================
``waits``   the draw has a place in the queue; ``recipe`` is there for a replay
``begun``   it is its turn
``step``    ``index``, ``total``; a file ``preview`` (JPEG) for each picture
``done``    ``pictures`` (``name`` in the gallery or null, ``seed``, ``label``, ``recipe``), a file (PNG) for each,
            ``seconds`` by stage, ``calls``, ``width``, ``height``; ``unkept`` says why pictures are in no gallery
``stopped`` the draw was stopped
``failed``  ``status``, ``code``, ``message`` and perhaps ``retry_after`` in seconds
=========== ===========================================================================================================

A tab has one draw at a time: a new one ends the one before. Work ends within a step once its tab is closed.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import threading
from collections.abc import AsyncGenerator, Callable
from typing import Any, Final, cast

from fastapi import APIRouter, WebSocket
from starlette.websockets import WebSocketDisconnect

from smalti.codec.masks import to_repaint
from smalti.codec.pictures import to_pixels
from smalti.drawing.generator import Generator
from smalti.drawing.result import Result, Step
from smalti.errors import OutputError, SmaltiError, UsageError
from smalti.families.limits import Limits
from smalti.loading.replay import again, given_picture
from smalti.saving.recipe import Recipe, read_recipe
from smalti.web.asking import desk_of
from smalti.web.calls import watching
from smalti.web.desk.desk import Desk, Place
from smalti.web.failures import LEFT, Refused, refusal_of
from smalti.web.pictures import file_of, named_file, opened, previews_of
from smalti.web.studio.frames import Asked, Draw, Files, Replay, Stop, packed, unpacked
from smalti.web.studio.gallery import Gallery, read_whole, told

STAGES: Final = ("network", "draw", "decoder", "host")
_TABS: Final = itertools.count(1)
Tell = Callable[[Any], None]

router = APIRouter(include_in_schema=False)


@router.websocket("/studio/socket")
async def socket(socket: WebSocket) -> None:
    """Serve one tab until it is closed."""
    await socket.accept()
    tab = Tab(socket, desk_of(socket), socket.app.state.gallery)
    try:
        while True:
            message = await socket.receive()
            if message["type"] == "websocket.disconnect":
                return
            await tab.take(message.get("bytes"))
    except (WebSocketDisconnect, RuntimeError):  # it is closed, and nobody reads
        return
    finally:
        await tab.end()


class Tab:
    """A page that is open: it has one draw at a time."""

    def __init__(self, socket: WebSocket, desk: Desk, gallery: Gallery) -> None:
        """Take the socket of a page."""
        self.socket, self.desk, self.gallery = socket, desk, gallery
        self.name = f"tab {next(_TABS)}"
        self._task: asyncio.Task[None] | None = None
        self._id = 0
        self._sending = asyncio.Lock()

    async def take(self, frame: bytes | None) -> None:
        """Do what a frame asks; what cannot be done is told."""
        try:
            if frame is None:
                raise UsageError("frame: a binary one is needed")
            asked, files = unpacked(frame)
        except SmaltiError as error:
            await self._fail(0, error)
            return
        if isinstance(asked, Stop) and asked.id != self._id:
            return
        await self.end()
        if not isinstance(asked, Stop):
            self._id = asked.id
            self._task = asyncio.create_task(self._serve(asked, files))

    async def end(self) -> None:
        """End the draw that is under way, if there is one."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await self._task
            self._task = None

    async def _serve(self, asked: Draw | Replay, files: Files) -> None:
        try:
            await (self._draw(asked, files) if isinstance(asked, Draw) else self._replay(asked, files))
        except SmaltiError as error:
            await self._fail(asked.id, error)
        except asyncio.CancelledError:
            with contextlib.suppress(Exception):
                await self._send({"is": "stopped", "id": asked.id})
            raise
        except (WebSocketDisconnect, RuntimeError):
            return

    async def _draw(self, asked: Draw, files: Files) -> None:
        async with self.desk.reserve(self.name, asked.bundle) as place:
            await self._send({"is": "waits", "id": asked.id})
            limits = place.generator.limits
            pictures = {name: opened(name, content, limits) for name, content in files.items()}
            call = asked.to_call(pictures).checked(place.generator)
            inputs = await asyncio.to_thread(self._pixels, call.arguments, files)
            call.arguments.update(inputs)

            def work(generator: Generator, gone: threading.Event, tell: Tell) -> Result:
                return call.followed(generator, gone, tell)

            await self._follow(asked, place, work, files if inputs else {})

    async def _replay(self, asked: Replay, files: Files) -> None:
        source = files.get("source")
        if asked.name is not None:
            source = await asyncio.to_thread(read_whole, self.gallery.path(asked.name))
        recipe = _recipe(source)
        async with self.desk.reserve(self.name, self._bundle_of(recipe)) as place:
            await self._send({"is": "waits", "id": asked.id, "recipe": told(recipe)})
            found = await asyncio.to_thread(self._begun_from, recipe, files, place.generator.limits)

            def work(generator: Generator, gone: threading.Event, tell: Tell) -> Result:
                return again(generator, recipe, **found, cancel=gone, on_step=watching(tell))

            await self._follow(asked, place, work, files if recipe.image else {})

    async def _follow(
        self, asked: Asked, place: Place, work: Callable[[Generator, threading.Event, Tell], Result], inputs: Files
    ) -> None:
        """Do the work, and send what it shows meanwhile and in the end."""

        def followed(generator: Generator, gone: threading.Event, tell: Tell) -> None:
            def show(step: Step) -> None:
                previews = [("preview", one) for one in previews_of(step, len(step.tokens))]
                tell(packed({"is": "step", "id": asked.id, "index": step.index, "total": step.total}, previews))

            tell(packed({"is": "begun", "id": asked.id}))
            tell(work(generator, gone, show))

        async with contextlib.aclosing(cast(AsyncGenerator[bytes | Result], place.stream(followed))) as told_items:
            async for item in told_items:
                if isinstance(item, bytes):
                    await self._send_whole(item)
                else:
                    header, files = await asyncio.to_thread(self._kept, item, inputs)
                    await self._send({**header, "id": asked.id}, files)

    def _kept(self, result: Result, inputs: Files) -> tuple[dict[str, Any], list[tuple[str, bytes]]]:
        """Keep a result and what it was painted on; return the last frame. A full disk loses no picture."""
        files = [("picture", file_of(result, index)) for index in range(len(result.images))]
        names: list[str | None] = [None] * len(files)
        unkept: str | None = None
        try:
            for index, (_, content) in enumerate(files):
                names[index] = self.gallery.keep(result, index, content)
            if inputs:
                self._keep_inputs(result, inputs)
        except OutputError as error:
            unkept = str(error)
        pictures = [
            {"name": name, "seed": str(seed), "label": label, "recipe": told(result.recipe(index))}
            for index, (name, seed, label) in enumerate(zip(names, result.settings.seeds, result.settings.labels))
        ]
        width, height = result.images[0].size
        seconds = {stage: round(getattr(result.timings, stage), 6) for stage in STAGES}
        done: dict[str, Any] = {"is": "done", "pictures": pictures, "width": width, "height": height}
        return {**done, "seconds": seconds, "calls": result.timings.calls, "unkept": unkept}, files

    def _keep_inputs(self, result: Result, inputs: Files) -> None:
        limits = self.desk.serving.limits
        if "image" in inputs:
            self.gallery.inputs.keep(to_pixels(opened("image", inputs["image"], limits)), inputs["image"])
        if "mask" in inputs and result.origin.mask is not None:
            self.gallery.inputs.keep(to_repaint(opened("mask", inputs["mask"], limits)), inputs["mask"])

    def _pixels(self, arguments: dict[str, Any], files: Files) -> dict[str, Any]:
        """Return the pixels of a call's pictures, so that the worker waits for no file to be read."""
        found: dict[str, Any] = {}
        if "image" in arguments:
            found["image"] = to_pixels(arguments["image"])
        if "mask" in arguments:
            found["mask"] = to_repaint(arguments["mask"])
        return found

    def _begun_from(self, recipe: Recipe, files: Files, limits: Limits) -> dict[str, Any]:
        """Return what a recipe's draw began from: files of the page, else those that the gallery kept."""
        found: dict[str, Any] = {}
        for name, named in (("image", recipe.image), ("mask", recipe.mask)):
            content = files.get(name)
            if content is None and (path := self.gallery.inputs.find(named)) is not None:
                content = read_whole(path)
            if content is None and named is not None:
                raise Refused(
                    409,
                    "needs_input",
                    f"the picture was made by {recipe.call} from another one, whose {name} this gallery has not kept",
                )
            found[name] = given_picture(name, None if content is None else opened(name, content, limits), recipe)
        return found

    def _bundle_of(self, recipe: Recipe) -> str | None:
        """Return the name of the very bundle that a recipe tells of, else of one with its name, else None."""
        entries = self.desk.shelf.entries
        same = [entry.name for entry in entries if entry.bundle.digest == recipe.bundle_digest]
        return next(iter([*same, *(entry.name for entry in entries if entry.name == recipe.bundle)]), None)

    async def _fail(self, number: int, error: SmaltiError) -> None:
        refused = refusal_of(error)
        if refused.status == LEFT:
            await self._send({"is": "stopped", "id": number})
            return
        header = {"is": "failed", "id": number, "status": refused.status, "code": refused.code}
        await self._send({**header, "message": str(refused), "retry_after": refused.retry_after})

    async def _send(self, header: dict[str, Any], files: list[tuple[str, bytes]] | None = None) -> None:
        await self._send_whole(packed(header, files or ()))

    async def _send_whole(self, frame: bytes) -> None:
        async with self._sending:
            await self.socket.send_bytes(frame)


def _recipe(source: bytes | None) -> Recipe:
    """Return the recipe of a file. Raises Refused with a code by which a page knows a picture of another program."""
    if source is None:
        raise UsageError("source: a file of smalti's is needed, or the name of a picture of the gallery")
    try:
        return read_recipe(named_file("the file", source))
    except UsageError as error:
        raise Refused(400, "no_recipe", str(error)) from None
