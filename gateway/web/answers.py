"""The answers of the HTTP pages, byte by byte as the wire contract has them. No decisions in here."""

from __future__ import annotations

from twisted.internet.defer import CancelledError
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.server import Request

from gateway.errors import BadRequest, GateError, InvalidState
from gateway.web.message import compact

JSON = b"application/json"
TEXT = b"text/plain; charset=utf-8"

log = Logger()


def answer(request: Request, status: int, body: bytes, kind: bytes = JSON) -> bytes:
    """Prepare the response and give its body, as a resource's render does."""
    request.setResponseCode(status)
    request.setHeader(b"content-type", kind)
    request.setHeader(b"content-length", b"%d" % len(body))
    request.setHeader(b"cache-control", b"no-store")
    request.setHeader(b"x-content-type-options", b"nosniff")
    return body


def refusal(request: Request, status: int, code: str, sentence: str) -> bytes:
    """An error as JSON: its code for programs, its sentence for people."""
    return answer(request, status, compact({"code": code, "message": sentence}))


def failure(request: Request, error: GateError) -> bytes:
    """The answer to an error of ours; its detail stays in the log."""
    if error.http_status == 401:
        request.setHeader(b"www-authenticate", b"Bearer")  # RFC 9110 section 15.5.2
    if isinstance(error, InvalidState):
        # The one body of the contract that is plain text, with a newline: clients compare it.
        return answer(request, 409, compact({"code": error.code, "message": error.sentence}) + b"\n", TEXT)
    return refusal(request, error.http_status, error.code, error.sentence)


def send(request: Request, body: bytes) -> None:
    """A page that came late."""
    request.write(answer(request, 200, body))
    request.finish()


def send_failure(request: Request, why: Failure) -> None:
    """Why it did not come; what nobody foresaw is a 500 for the client and a line in the log."""
    if why.check(CancelledError):
        return  # the client went; there is nobody to tell
    if not why.check(GateError):
        log.failure("A request failed in a way nobody foresaw", why)
    error = why.value if isinstance(why.value, GateError) else GateError()
    request.write(failure(request, error))
    request.finish()


def argument(request: Request, name: bytes) -> str:
    """One argument of the query, "" when it is missing. Raises BadRequest for several, and for no UTF-8."""
    values = (request.args or {}).get(name, [b""])
    if len(values) > 1:
        raise BadRequest(message=f"{name.decode()} is given more than once")
    try:
        return str(values[0], "utf-8")
    except UnicodeDecodeError:
        raise BadRequest(message=f"{name.decode()} must be UTF-8") from None
