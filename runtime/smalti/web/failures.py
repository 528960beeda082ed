"""What a request is told when it gets no picture: a status, a code for programs, and a sentence for people."""

from __future__ import annotations

import math
from typing import Any

from smalti.errors import BundleError, Cancelled, OutOfMemory, SmaltiError, UsageError

LEFT = 499
"""The status of a request whose client has left: nobody reads it, but logs and metrics do."""
KINDS: tuple[tuple[type[SmaltiError], int, str], ...] = (
    (UsageError, 400, "invalid_value"),
    (OutOfMemory, 413, "too_large"),
    (BundleError, 409, "bundle_lacks_it"),
    (Cancelled, LEFT, "cancelled"),
)
TYPES = {429: "rate_limit_error", 401: "authentication_error", 403: "permission_error"}


class Refused(SmaltiError):
    """A request that is not answered: its status, its code, and when to come again."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        param: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        """Keep the status of HTTP, a code in lower case, what was wrong, and the field that it is about."""
        super().__init__(message)
        self.status, self.code, self.param, self.retry_after = status, code, param, retry_after


def refusal_of(error: SmaltiError) -> Refused:
    """Return an error of the library as what its request is told."""
    if isinstance(error, Refused):
        return error
    status, code = next(((status, code) for kind, status, code in KINDS if isinstance(error, kind)), (500, "failed"))
    return Refused(status, code, str(error))


def body_of(refused: Refused) -> dict[str, Any]:
    """Return what the answer says, in the form that OpenAI's clients read."""
    kind = TYPES.get(refused.status, "invalid_request_error" if refused.status < 500 else "server_error")
    return {"error": {"message": str(refused), "type": kind, "param": refused.param, "code": refused.code}}


def headers_of(refused: Refused) -> dict[str, str]:
    """Return the headers that go with it."""
    headers: dict[str, str] = {}
    if refused.retry_after is not None:
        headers["Retry-After"] = str(max(1, math.ceil(refused.retry_after)))
    if refused.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return headers
