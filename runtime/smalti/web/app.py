"""The application: its routes behind the guard, errors as answers, and bundles that are loaded while it listens."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from smalti.bundle.reader import Bundle
from smalti.drawing.generator import Generator
from smalti.errors import SmaltiError
from smalti.version import __version__
from smalti.web import docs, health
from smalti.web.api import native, openai, sdapi
from smalti.web.bodies import Bodies
from smalti.web.desk.desk import Desk
from smalti.web.desk.shelf import Shelf
from smalti.web.failures import Refused, answer, body_of, invalid, refusal_of
from smalti.web.guard import Guard
from smalti.web.metrics import Metrics
from smalti.web.serving import Serving
from smalti.web.studio import routes as studio
from smalti.web.studio.gallery import Gallery

Load = Callable[[Bundle], Generator]
ABOUT = "Vector-quantised image models. The same seed gives the same picture, here and from the library."


def create_app(
    shelf: Shelf,
    serving: Serving,
    load: Load,
    *,
    better: Load | None = None,
    gallery: Gallery | None = None,
    on_ready: Callable[[], object] = lambda: None,
    on_failure: Callable[[BaseException], object] = lambda error: None,
    on_stay: Callable[[BaseException], object] = lambda error: None,
    on_end: Callable[[], object] = lambda: None,
) -> FastAPI:
    """Make the application of a server.

    Args:
        shelf: the bundles, opened.
        serving: who may ask, and how much.
        load: makes a bundle ready; it is called in a thread while the server listens already.
        better: makes each ready in another way, which takes longer; the server draws meanwhile, and then with it.
        gallery: where the studio keeps pictures; None serves no studio.
        on_ready: is called once all bundles are ready, and again once ``better`` has made them so.
        on_failure: is told why one cannot be made ready.
        on_stay: is told why ``better`` cannot, so that all stays as it is.
        on_end: is called when the server ends, for a ``load`` that is under way.
    """
    metrics = Metrics()

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
        # Made here, since events belong to the loop that runs.
        app.state.desk = desk = Desk(shelf, serving, metrics)
        desk.start()

        async def load_all() -> None:
            try:
                await asyncio.to_thread(shelf.load, load)
            except Exception as error:
                on_failure(error)
                return
            on_ready()
            if better is None:
                return
            try:
                await asyncio.to_thread(shelf.load, better)
            except Exception as error:
                on_stay(error)
            else:
                on_ready()

        loading = asyncio.ensure_future(load_all())
        try:
            yield
        finally:
            on_end()
            await desk.stop()
            loading.cancel()

    app = FastAPI(
        title="smalti",
        version=__version__,
        description=ABOUT,
        docs_url=None,  # FastAPI's pages load scripts from elsewhere; ours come from here
        redoc_url=None,
        lifespan=lifespan,
        exception_handlers={
            Exception: _told,  # which is logged, too
            SmaltiError: _told,
            RequestValidationError: _invalid,
            HTTPException: _plain,
        },
    )
    for router in (native.router, openai.router, sdapi.router, health.router, docs.router):
        app.include_router(router)
    docs.mount(app)
    if gallery is not None:
        studio.mount(app, gallery, serving)
    else:
        app.add_api_route("/", docs.from_root, include_in_schema=False)
    docs.describe(app)
    app.add_middleware(Bodies, serving=serving)
    app.add_middleware(Guard, serving=serving)
    app.add_middleware(Counted, metrics=metrics)  # the last one comes first
    return app


class Counted:
    """Counts answers by route and status."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        """Stand before an application."""
        self.app, self.metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, and look at its status."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                route: Any = getattr(scope.get("route"), "path", "other")  # no address of a client's own making
                self.metrics.requests.labels(route, str(message["status"])).inc()
            await send(message)

        await self.app(scope, receive, counted)


async def _told(request: Request, error: Exception) -> JSONResponse:
    return answer(refusal_of(error))


async def _invalid(request: Request, error: Exception) -> JSONResponse:
    """Say what a body has that is not allowed, as all other errors are said."""
    assert isinstance(error, RequestValidationError)
    route = request.scope.get("route")
    body = getattr(getattr(getattr(route, "body_field", None), "field_info", None), "annotation", None)
    fields = tuple(getattr(body, "model_fields", ()))
    return answer(invalid(error.errors(), request.headers.get("content-type", "")[:100], fields))


async def _plain(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    codes = {404: "not_found", 405: "method_not_allowed", 408: "too_slow", 413: "too_large"}
    told = {
        404: "there is nothing at this address; /docs shows what can be asked",
        405: f"{request.method} is not for this address; allowed: {(error.headers or {}).get('Allow', 'see /docs')}",
    }
    detail = str(error.detail)
    if detail == HTTPStatus(error.status_code).phrase:  # nobody said more
        detail = told.get(error.status_code, detail)
    refused = Refused(error.status_code, codes.get(error.status_code, "refused"), detail)
    return JSONResponse(body_of(refused), refused.status, error.headers)
