"""The gateway's HTTP pages, for subcommands that need no WebSocket. Loads little, so that it starts fast."""

from __future__ import annotations

import http.client
import json
import ssl
from typing import Any
from urllib.parse import quote, urlencode

from gateway.cli.problem import Problem, printable
from gateway.cli.server import Server

TIME = 40  # seconds for one answer; the gateway itself gives a guest 30
MOST = 16 << 20  # bytes of an answer


def trust(server: Server) -> ssl.SSLContext | None:
    """What TLS believes; None without TLS. Raises Problem."""
    if not server.secure:
        return None
    try:
        return ssl.create_default_context(cafile=server.ca or None)
    except OSError as error:
        raise Problem(f"the certificates in {server.ca} cannot be read: {error.strerror or error}") from None


def get(server: Server, path: tuple[str, ...], query: dict[str, str] | None = None) -> Any:
    """The answer of a page, from JSON. Raises Problem with the gateway's own sentence."""
    status, body = _ask(server, path, query)
    try:
        answer = json.loads(body)
    except ValueError:
        raise Problem(f"{server.url} answers, but not as a vmgate gateway does (status {status})") from None
    if status != 200:
        raise Problem(sentence(answer, status))
    return answer


def refusal(server: Server, path: tuple[str, ...]) -> str:
    """Why a WebSocket on this path is not opened: a plain request is checked in the same order, and
    its answer has the sentence that a failed upgrade hides."""
    status, body = _ask(server, path, None)
    try:
        return "" if status == 426 else sentence(json.loads(body), status)
    except ValueError:
        return f"{server.url} answers, but not as a vmgate gateway does (status {status})"


def sentence(answer: Any, status: int) -> str:
    """The gateway's own words, and for some what to do."""
    said = printable(str(answer.get("message", ""))) if isinstance(answer, dict) else ""
    hints = {
        401: "is the token still good? `vmgate token` mints one",
        404: "`vmgate ls` shows what there is",
    }
    hint = hints.get(status)
    return f"{said or f'status {status}'}{f' ({hint})' if hint else ''}"


def _ask(server: Server, path: tuple[str, ...], query: dict[str, str] | None) -> tuple[int, bytes]:
    parts = server.parts
    where = parts.path.rstrip("/") + "".join(f"/{quote(part, safe='')}" for part in path)
    if query:
        where += "?" + urlencode(query, errors="surrogateescape")
    connection: http.client.HTTPConnection
    if (context := trust(server)) is not None:
        connection = http.client.HTTPSConnection(parts.hostname or "", parts.port, timeout=TIME, context=context)
    else:
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=TIME)
    try:
        connection.request("GET", where, headers={"Authorization": f"Bearer {server.token}"})
        answer = connection.getresponse()
        return answer.status, answer.read(MOST)
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise Problem(f"cannot reach {server.url}: {reason(error)}") from None
    finally:
        connection.close()


def reason(error: BaseException) -> str:
    """A few words for people."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f'its certificate is not trusted ({error.verify_message}); ca = "file" in the config names another'
    if isinstance(error, TimeoutError):
        return "no answer"
    return (getattr(error, "strerror", None) or str(error) or type(error).__name__).strip()
