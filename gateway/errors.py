"""Everything that can go wrong, each with one sentence for the user and one answer a front.

The docstring of an error is what its user reads, so it says what happened and what to do; the
cause for the operator travels as `__cause__` and as `detail`, which only logs show. Raised in any
room; turned into a protocol's answer only by the fronts.
"""

from __future__ import annotations

from typing import ClassVar

from gateway.model import Outcome


class GateError(Exception):
    """Something went wrong in the gateway; its log says what."""

    code: ClassVar[str] = "internal_error"
    outcome: ClassVar[Outcome] = Outcome.FAILED
    exit_status: ClassVar[int] = 255  # what ssh exits with when the transport failed
    http_status: ClassVar[int] = 500
    close_code: ClassVar[int] = 1011  # RFC 6455 section 7.4.1

    def __init__(self, detail: str = "", **words: str) -> None:
        self.detail = detail
        self.words = words
        self.sentence = " ".join((type(self).__doc__ or "").split()).format_map(words)
        super().__init__(self.sentence)

    def __str__(self) -> str:
        return f"{self.sentence} [{self.detail}]" if self.detail else self.sentence


class Unauthorized(GateError):
    """{message}"""

    code, outcome, http_status = "Unauthorized", Outcome.REFUSED, 401


class Forbidden(GateError):
    """{message}"""

    code, outcome, http_status, close_code = "Forbidden", Outcome.REFUSED, 403, 1008


class NotFound(GateError):
    """resource not found"""

    code, outcome, http_status = "not_found", Outcome.REFUSED, 404


class Ambiguous(GateError):
    """multiple resources match, use full ID"""

    code, outcome, http_status = "ambiguous", Outcome.REFUSED, 409


class InvalidState(GateError):
    """instance must be running (current state: {state})"""

    code, outcome, http_status = "invalid_state", Outcome.REFUSED, 409


class BadRequest(GateError):
    """{message}"""

    code, outcome, http_status, close_code = "bad_request", Outcome.REFUSED, 400, 1007


class TooMany(GateError):
    """Too many sessions are open; close one, or ask the operator to raise the limit."""

    code, outcome, http_status, close_code = "too_many", Outcome.REFUSED, 503, 1013


class Unreachable(GateError):
    """The guest cannot be reached: nothing answers at its socket. Is the instance running?"""

    code, outcome, http_status = "unreachable", Outcome.UNREACHABLE, 502


class AgentVSockDialError(Unreachable):
    """The guest's agent cannot be reached: {reason}."""

    code = "agent_unreachable"


class GuestBooting(AgentVSockDialError):
    """The guest is still booting: its agent does not listen yet. Try again in a moment."""

    code = "guest_booting"


class GuestLost(GateError):
    """The connection to the guest was lost; the command may have been cut short."""

    code, outcome, http_status = "guest_lost", Outcome.LOST, 502


class GuestLacks(GateError):
    """The agent of this guest is too old for {what}; install vmgate's agent in the guest."""

    code, outcome, http_status = "guest_lacks", Outcome.FAILED, 501


class GuestFailed(GateError):
    """The guest's agent answered with an error: {message}."""

    code, http_status = "guest_failed", 502


class NotSFTP(GateError):
    """This session may only read files, and what is sent in it cannot be followed any more."""

    code, outcome = "not_sftp", Outcome.FAILED


class PlaceRefused(GateError):
    """{message}"""

    code, outcome, http_status = "place_refused", Outcome.REFUSED, 502


class ClientLost(GateError):
    """The client went away."""

    code, outcome = "client_lost", Outcome.LOST


class ClientDone(ClientLost):
    """The client wants no more of it."""

    code, outcome = "client_done", Outcome.COMPLETED


class TimedOut(GateError):
    """{what} took longer than {seconds} s."""

    code, outcome, http_status = "timed_out", Outcome.TIMED_OUT, 504


class Idle(GateError):
    """Nothing moved in this session for {seconds} s, which is as long as it may be idle."""

    code, outcome, http_status = "idle", Outcome.TIMED_OUT, 504


class Revoked(GateError):
    """You may not be here any more: the operator has changed who may enter."""

    code, outcome, http_status, close_code = "revoked", Outcome.ENDED, 403, 1008


class Expired(GateError):
    """Your {what} has expired; log in again with a new one."""

    code, outcome, http_status, close_code = "expired", Outcome.ENDED, 401, 1008


class Killed(GateError):
    """An administrator ended this session."""

    code, outcome, http_status, close_code = "killed", Outcome.ENDED, 503, 1008


class Overrun(GateError):
    """The client sent more than it was allowed to."""

    code, outcome, close_code = "overrun", Outcome.OVERRUN, 1009


class Unrecorded(GateError):
    """{what} cannot be kept just now, and without it no session may run here; tell the gateway's operator."""

    code, outcome, http_status, close_code = "unrecorded", Outcome.REFUSED, 503, 1013


class RecordingLost(Unrecorded):
    """{what} cannot be kept any longer, and without it no session may run here; tell the gateway's operator."""

    code, outcome = "recording_lost", Outcome.ENDED


class Draining(GateError):
    """The gateway is shutting down; connect again in a moment."""

    code, outcome, http_status, close_code = "draining", Outcome.ENDED, 503, 1001


class ConfigError(GateError):
    """The configuration cannot be used."""

    code = "config"

    def __init__(self, problems: list[str]) -> None:
        super().__init__()
        self.problems = problems

    def __str__(self) -> str:
        return "\n".join(self.problems)
