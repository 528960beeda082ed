"""What a request is told when it gets no picture: a status, a code for programs, and a sentence for people."""

from __future__ import annotations

import difflib
import math
from collections.abc import Sequence
from typing import Any

from starlette.responses import JSONResponse

from smalti.errors import BundleError, Cancelled, OutOfMemory, SamplingError, SmaltiError, UsageError, for_outsiders

LEFT = 499
"""The status of a request whose client has left: nobody reads it, but logs and metrics do."""
KINDS: tuple[tuple[type[SmaltiError], int, str], ...] = (
    (UsageError, 400, "invalid_value"),
    (SamplingError, 400, "no_answer"),
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
        super().__init__(for_outsiders(message))
        self.status, self.code, self.param, self.retry_after = status, code, param, retry_after


def refusal_of(error: BaseException) -> Refused:
    """Return an error as what its request is told. Of one that is not smalti's own nothing is shown but that it was."""
    if isinstance(error, Refused):
        return error
    if isinstance(error, MemoryError) and not isinstance(error, SmaltiError):
        return Refused(413, "too_large", "there is not enough memory; ask for fewer or smaller images")
    if not isinstance(error, SmaltiError):
        return Refused(500, "failed", "the work failed; the log of this server says why")
    status, code = next(((status, code) for kind, status, code in KINDS if isinstance(error, kind)), (500, "failed"))
    return Refused(status, code, str(error))


def answer(refused: Refused) -> JSONResponse:
    """Return the answer to a request that is refused. Who has left is told nothing."""
    told = None if refused.status == LEFT else body_of(refused)
    return JSONResponse(told, refused.status, headers_of(refused))


def body_of(refused: Refused) -> dict[str, Any]:
    """Return what the answer says, in the form that OpenAI's clients read."""
    kind = TYPES.get(refused.status, "invalid_request_error" if refused.status < 500 else "server_error")
    message = str(refused).encode("utf-8", "replace").decode()  # a client's own words may hold half of a character
    return {
        "error": {
            "message": message,
            "type": kind,
            "param": refused.param and refused.param.encode("utf-8", "replace").decode(),
            "code": refused.code,
        }
    }


def headers_of(refused: Refused) -> dict[str, str]:
    """Return the headers that go with it."""
    headers: dict[str, str] = {}
    if refused.retry_after is not None:
        headers["Retry-After"] = str(max(1, math.ceil(refused.retry_after)))
    if refused.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return headers


def invalid(errors: Sequence[Any], content_type: str = "application/json", fields: Sequence[str] = ()) -> Refused:
    """Return what a body is told that is not of the form it should be.

    Args:
        errors: pydantic's.
        content_type: what the request says that its body is.
        fields: names that the body may have.
    """
    first = errors[0]
    where = ".".join(str(one) for one in first["loc"] if one != "body")
    told = first["msg"].removeprefix("Value error, ")
    if first["type"] == "json_invalid":
        where, told = "", f"no JSON: {first.get('ctx', {}).get('error', told)}, at character {first['loc'][-1]}"
    elif not where and "json" not in content_type:
        told = (
            f"JSON is read under the header Content-Type: application/json, and here it is {content_type or 'absent'}"
        )
    elif first["type"] == "missing":
        told = "this field is needed"
    elif first["type"] == "extra_forbidden" and len(first["loc"]) == 2 and fields:
        near = difflib.get_close_matches(str(first["loc"][-1]), fields, 1)
        told = f"there is no such field; {f'is {near[0]} meant? There' if near else 'there'} are {', '.join(fields)}"
    return Refused(400, "invalid_body", f"{where or 'body'}: {told}"[:600], param=where[:100] or None)
