"""What those who watch over a server ask: whether it lives, whether it is ready, and its figures."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST

from smalti.web.asking import desk_of
from smalti.web.desk.desk import Desk

router = APIRouter(tags=["health"])


@router.get("/health/live")
async def live() -> dict[str, str]:
    """Answer as long as the server runs."""
    return {"status": "ok"}


@router.get("/health/ready", responses={503: {"description": "Loading, or about to end."}})
async def ready(desk: Annotated[Desk, Depends(desk_of)]) -> JSONResponse:
    """Answer 200 while requests are accepted, 503 while bundles are loaded and once the server is to end."""
    state = "draining" if desk.draining else "ready" if desk.shelf.ready else "loading"
    return JSONResponse({"status": state}, 200 if state == "ready" else 503)


@router.get("/metrics", response_class=Response)
async def metrics(desk: Annotated[Desk, Depends(desk_of)]) -> Response:
    """Answer the figures of this server in the format of Prometheus."""
    return Response(desk.metrics.text(), media_type=CONTENT_TYPE_LATEST)
