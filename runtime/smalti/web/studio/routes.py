"""The studio's page, and its gallery."""

from __future__ import annotations

import asyncio
import mimetypes
from pathlib import Path
from typing import Annotated, Any, Final, cast

from fastapi import APIRouter, Depends, FastAPI, Request, Response
from fastapi.responses import FileResponse
from fastapi.staticfiles import StaticFiles

from smalti.errors import UsageError
from smalti.web.failures import Refused
from smalti.web.serving import Serving
from smalti.web.studio import socket
from smalti.web.studio.gallery import Gallery, read_whole
from smalti.web.studio.thumbs import Thumbs

PAGE: Final = Path(__file__).parent / "page"
FOR_GOOD: Final = {"Cache-Control": "private, max-age=31536000, immutable"}
"""Of files whose address names their version."""


def gallery_of(request: Request) -> Gallery:
    """Return the gallery of the application that was asked."""
    return cast(Gallery, request.app.state.gallery)


Kept = Annotated[Gallery, Depends(gallery_of)]
router = APIRouter(include_in_schema=False)


@router.get("/")
async def page() -> FileResponse:
    """Show the page."""
    return FileResponse(PAGE / "index.html", media_type="text/html")


@router.get("/studio/gallery")
def listed(gallery: Kept, after: str | None = None) -> dict[str, Any]:
    """List pictures, the newest first, behind the one that is named."""
    found, more = gallery.page(after)
    return {"folder": str(gallery.folder), "pictures": [one.to_dict() for one in found], "more": more}


@router.get("/studio/gallery/{name}")
def picture(name: str, gallery: Kept) -> Response:
    """Return a picture as it lies in the gallery."""
    return Response(read_whole(gallery.path(name)), media_type="image/png")


@router.get("/studio/gallery/{name}/thumb")
async def thumb(name: str, request: Request, gallery: Kept) -> Response:
    """Return a small copy of a picture."""
    small: Thumbs = request.app.state.thumbs
    try:
        content = await asyncio.to_thread(small.of, gallery.path(name))
    except (OSError, UsageError):
        raise Refused(404, "not_found", f"the gallery cannot show {name[:80]}") from None
    return Response(content, media_type="image/jpeg", headers=FOR_GOOD)


@router.delete("/studio/gallery/{name}", status_code=204)
def delete(name: str, gallery: Kept) -> None:
    """Put a picture away."""
    gallery.delete(name)


@router.post("/studio/gallery/{name}/restore", status_code=204)
def restore(name: str, gallery: Kept) -> None:
    """Bring back a picture that was put away."""
    gallery.restore(name)


@router.get("/studio/inputs/{digest}")
def kept_input(digest: str, gallery: Kept) -> Response:
    """Return an image or a mask that a picture was painted on, by the digest that its recipe names."""
    if (path := gallery.inputs.find(digest)) is None:
        raise Refused(404, "not_found", "the gallery has not kept this image")
    return Response(read_whole(path), media_type="application/octet-stream", headers=FOR_GOOD)


def mount(app: FastAPI, gallery: Gallery, serving: Serving) -> None:
    """Add the studio to an application."""
    mimetypes.add_type("text/javascript", ".js")  # which the registry of some Windows calls plain text
    mimetypes.add_type("image/svg+xml", ".svg")
    app.state.gallery, app.state.thumbs = gallery, Thumbs(serving.limits)
    app.include_router(router)
    app.include_router(socket.router)
    app.mount("/studio/page", StaticFiles(directory=PAGE))
