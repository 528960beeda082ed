"""Pages about the interface that need no other server: Swagger UI from an installed package."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any, Final

from fastapi import APIRouter, FastAPI
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from fastapi.staticfiles import StaticFiles

from smalti.errors import MissingExtra
from smalti.system.platform import install_hint

PACKAGE: Final = "fastapi_offline"
"""It brings Swagger UI's files; its code is not used."""
PAGE: Final = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>smalti: interface</title><link rel="stylesheet" href="/docs/files/swagger-ui.css"></head>
<body><div id="page"></div><script src="/docs/files/swagger-ui-bundle.js"></script>
<script src="/docs/begin.js"></script></body></html>
"""
SCRIPT: Final = 'SwaggerUIBundle({url: "/openapi.json", dom_id: "#page", deepLinking: true, validatorUrl: null});\n'
STYLES: Final = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data:; style-src 'self' 'unsafe-inline'; "
    "script-src 'self'; object-src 'none'; base-uri 'none'; frame-ancestors 'none'"
}
"""Swagger UI sets styles of its own."""

router = APIRouter(include_in_schema=False)


@router.get("/docs")
async def page() -> HTMLResponse:
    """Show the interface."""
    return HTMLResponse(PAGE, headers=STYLES)


async def from_root() -> RedirectResponse:
    """Lead a browser that opens the bare address on to what can be asked."""
    return RedirectResponse("/docs")


@router.get("/docs/begin.js")
async def begin() -> Response:
    """Start Swagger UI; scripts inside a page are not allowed."""
    return Response(SCRIPT, media_type="text/javascript")


def mount(app: FastAPI) -> None:
    """Serve Swagger UI's files. Raises MissingExtra where they are not installed."""
    found = importlib.util.find_spec(PACKAGE)
    if found is None or not found.submodule_search_locations:
        raise MissingExtra(f"the pages of the interface need {PACKAGE}; {install_hint('serve')}")
    app.mount("/docs/files", StaticFiles(directory=Path(found.submodule_search_locations[0]) / "static"))


def describe(app: FastAPI) -> None:
    """Let the description of the interface say what happens: what is not of the right form gets 400, never 422."""
    whole = app.openapi

    def openapi() -> dict[str, Any]:
        described = whole()
        for calls in described["paths"].values():
            for call in calls.values():
                call["responses"].pop("422", None)
        for name in ("HTTPValidationError", "ValidationError"):
            described.get("components", {}).get("schemas", {}).pop(name, None)
        return described

    app.openapi = openapi  # type: ignore[method-assign]
