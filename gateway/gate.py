"""The one door that both fronts use: who comes to which instance for what, and the session it gets.

Permission, instance, state, in that order; nothing reaches a guest before all three. Knows live
sessions, so it can count and end them. No protocol of any client in here.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from functools import partial
from typing import TypeVar

from twisted.internet.defer import Deferred, maybeDeferred, succeed
from twisted.internet.interfaces import IReactorTime

from gateway.config.policy import NO_TABLE, Policy
from gateway.copy import DownloadSession, UploadSession
from gateway.doors import (
    Arrival,
    DownloadFront,
    ExecFront,
    Guests,
    Instances,
    LinkFront,
    ListenFront,
    Process,
    UploadFront,
)
from gateway.entries import DownloadStart, Stat, UploadStart
from gateway.errors import Draining, GateError, Revoked
from gateway.eventlog import EventLog
from gateway.events import Events, SessionStarted
from gateway.forward import LinkSession, ListenSession
from gateway.measures import Moved, Tally
from gateway.model import ExecRequest, Instance, Operation, Outcome, Place, Via
from gateway.policy import Asked
from gateway.porter import Porter
from gateway.recording import Recorder
from gateway.roll import Roll, Sitting, Stay, Visitor
from gateway.room import Room, Rooms
from gateway.session import ExecSession, Session
from gateway.sftp import Watched

__all__ = ["Gate", "Visitor"]

S = TypeVar("S", bound=Session)


class Gate(Porter):
    """Lets visitors in and keeps the list of the sessions they have."""

    def __init__(
        self,
        instances: Instances,
        guests: Guests,
        events: Events,
        clock: IReactorTime,
        policy: Policy = NO_TABLE,
        *,
        room: Rooms | None = None,
        recorder: Recorder | None = None,
    ) -> None:
        """`room` is where sessions get theirs, the usual unless it is given."""
        super().__init__(instances, events, policy)
        self._guests = guests
        self._clock = clock
        self._room = room or Room(events)
        self._recorder = recorder
        self._roll = Roll(clock, self._expired)
        self._closed = False

    # Sessions.

    def exec(
        self,
        visitor: Visitor,
        instance: Instance,
        request: ExecRequest,
        front: ExecFront,
        wait: float = 0,
        prepare: Callable[[ExecRequest], Deferred[ExecRequest]] = succeed,
        part_of: Operation | None = None,
    ) -> ExecSession:
        """Start a process for this front; `prepare` is given time to complete the request. What moves
        by sftp is watched, and held to what the principal may. `part_of` is what must be allowed where
        the process is only a step of that. Raises Forbidden or Draining; the
        front is told of TooMany and Unrecorded, as of all that follows."""
        if request.subsystem:
            operation = Operation.SFTP
        else:
            operation = Operation.SHELL if request.line == b"" else Operation.EXEC
        guest = self._guests.guest(instance)
        asked = Asked(source=visitor.peer, user=request.user, terminal=request.terminal is not None)
        stay = self._admit(visitor, instance, operation, asked, part_of)
        reader = stay.decision.read_only

        def session(log: EventLog) -> ExecSession:
            def started(ready: ExecRequest) -> Deferred[Process]:
                process = guest.start(ready, session_id=log.start.session_id, wait=wait)
                if operation is Operation.SFTP:
                    process.addCallback(lambda process: Watched(process, log, reader=reader))
                return process

            def recorded(ready: ExecRequest) -> Deferred[Process]:
                if self._recorder is None:
                    return started(ready)
                return self._recorder.around(log, instance, ready, lambda: started(ready), made.end)

            made = ExecSession(front, lambda: prepare(request).addCallback(recorded), log, self._clock, request.timeout)
            return made

        return self._begin(stay, session)

    def reached(self, instance: Instance) -> bool:
        """Whether the guest's channel stands: who waits then waits for what it does."""
        return self._guests.guest(instance).reached

    def upload(
        self, visitor: Visitor, instance: Instance, start: UploadStart, front: UploadFront, wait: float = 0
    ) -> UploadSession:
        """Start a copy into the guest. Raises Forbidden or Draining; the
        front is told of TooMany and Unrecorded, as of all that follows."""
        asked = Asked(source=visitor.peer, user=start.user)
        guest = self._guests.guest(instance)
        stay = self._admit(visitor, instance, Operation.UPLOAD, asked)
        return self._begin(
            stay,
            lambda log: UploadSession(
                front, start, lambda: guest.upload(start, session_id=log.start.session_id, wait=wait), log, self._clock
            ),
        )

    def download(
        self, visitor: Visitor, instance: Instance, start: DownloadStart, front: DownloadFront, wait: float = 0
    ) -> DownloadSession:
        """Start a copy out of the guest. Raises Forbidden or Draining; the
        front is told of TooMany and Unrecorded, as of all that follows."""
        asked = Asked(source=visitor.peer, user=start.user)
        guest = self._guests.guest(instance)
        stay = self._admit(visitor, instance, Operation.DOWNLOAD, asked)
        return self._begin(
            stay,
            lambda log: DownloadSession(
                front,
                start,
                lambda: guest.download(start, session_id=log.start.session_id, wait=wait),
                log,
                self._clock,
            ),
        )

    def connect(
        self, visitor: Visitor, instance: Instance, place: Place, front: LinkFront, *, user: str = "", wait: float = 0
    ) -> LinkSession:
        """Connect to a place of the guest. Raises Forbidden or Draining; the
        front is told of TooMany and Unrecorded, as of all that follows."""
        asked = Asked(source=visitor.peer, user=user, place=place)
        guest = self._guests.guest(instance)
        stay = self._admit(visitor, instance, Operation.FORWARD, asked)
        return self._begin(
            stay,
            lambda log: LinkSession(
                front,
                lambda: guest.connect(place, user=user, session_id=log.start.session_id, wait=wait),
                log,
                self._clock,
            ),
        )

    def listen(
        self, visitor: Visitor, instance: Instance, place: Place, front: ListenFront, *, user: str = "", wait: float = 0
    ) -> ListenSession:
        """Listen at a place of the guest. Raises Forbidden or Draining; the
        front is told of TooMany and Unrecorded, as of all that follows."""
        asked = Asked(source=visitor.peer, user=user, place=place)
        guest = self._guests.guest(instance)
        stay = self._admit(visitor, instance, Operation.LISTEN, asked)
        return self._begin(
            stay,
            lambda log: ListenSession(
                front,
                lambda: guest.listen(place, user=user, session_id=log.start.session_id, wait=wait),
                log,
                self._clock,
            ),
        )

    def accept(
        self, visitor: Visitor, instance: Instance, place: Place, arrival: Arrival, front: LinkFront
    ) -> LinkSession:
        """Take up what came to a listener at that place. Raises Forbidden or Draining; the
        front is told of TooMany and Unrecorded, as of all that follows."""
        stay = self._admit(visitor, instance, Operation.FORWARD, Asked(source=visitor.peer, place=place))
        return self._begin(stay, lambda log: LinkSession(front, arrival.take, log, self._clock))

    async def stat(
        self,
        visitor: Visitor,
        instance: Instance,
        path: str,
        *,
        follow_links: bool = False,
        user: str = "",
        wait: float = 0,
    ) -> Stat:
        """What is at a path; raises what the guest raises."""
        stay = self._admit(visitor, instance, Operation.STAT, Asked(source=visitor.peer, user=user))
        log = self._log(stay)
        await self._enter(stay, log)
        try:
            guest = self._guests.guest(instance)
            stat = await guest.stat(path, follow_links=follow_links, user=user, wait=wait)
        except GateError as error:
            log.ended(error.outcome, str(error))
            raise
        except BaseException:
            log.ended(Outcome.LOST, "given up")
            raise
        else:
            log.ended(Outcome.COMPLETED)
            return stat
        finally:
            self._room.leave(log.start.session_id)

    def _admit(
        self,
        visitor: Visitor,
        instance: Instance,
        operation: Operation,
        asked: Asked,
        part_of: Operation | None = None,
    ) -> Stay:
        """The last question to the policy before a session, with all that is known of it."""
        if self._closed:
            raise Draining()
        right = part_of or operation
        decision = self.decide(visitor, right, instance, asked)
        if not decision.allowed:
            error = self.forbidden(decision)
            self.refused(visitor, instance.id, operation, error)
            raise error
        return Stay(visitor, instance, operation, right, asked, decision)

    async def _enter(self, stay: Stay, log: EventLog) -> None:
        """Get room for a session. Raises TooMany or Unrecorded, with an audit line, and then it never was."""
        try:
            await maybeDeferred(self._room.take, stay.claim(log.start))
        except GateError as error:
            self.refused(stay.visitor, stay.instance.id, stay.operation, error)
            raise
        log.begin()

    def _log(self, stay: Stay) -> EventLog:
        start = SessionStarted(
            session_id=secrets.token_hex(8),
            via=stay.visitor.via,
            subject=stay.visitor.principal.subject,
            instance_id=stay.instance.id,
            operation=stay.operation,
            peer=stay.visitor.peer,
            place=str(stay.asked.place or ""),
            credential=stay.visitor.principal.credential,
        )
        return EventLog(self.events, start, self._clock, told=False)

    def _begin(self, stay: Stay, make: Callable[[EventLog], S]) -> S:
        log = self._log(stay)
        session = make(log)
        self._roll.add(session, stay, partial(self._enter, stay, log), self._room.leave)
        return session

    @property
    def live(self) -> int:
        """How many sessions run."""
        return len(self._roll)

    def progress(self) -> None:
        """Tell what the sessions moved since this was last called, by their kind: there may be many."""
        tallies: dict[tuple[Via, Operation], Tally] = {}
        for session, _ in self._roll.stays():
            start = session.log.start
            session.log.tell(tallies.setdefault((start.via, start.operation), Tally()))
        for (via, operation), tally in tallies.items():
            self.events.emit(Moved(via, operation, tally))

    def sittings(self) -> list[Sitting]:
        """Those that run, the oldest first."""
        return [Sitting(session, stay) for session, stay in self._roll.stays()]

    def reload(self, policy: Policy) -> None:
        """This policy from now on, for those who are in too: see `review`."""
        self.policy = policy
        self.review()

    def review(self) -> None:
        """Ask again for every session that runs, by the policy, the credentials and the instances of now;
        who may not be there any more is put out, with a word and an audit line."""
        listing = self._instances.listing()
        for session, stay in self._roll.stays():
            # One that is not known any more has no guest either: that ends its sessions.
            self._review(session, stay, listing.get(stay.instance.id) or stay.instance)

    def listed(self) -> None:
        """The instances are others now: review those sessions whose instance is told of otherwise than it was."""
        listing = self._instances.listing()
        for session, stay in self._roll.stays():
            instance = listing.get(stay.instance.id)
            if instance is not None and instance != stay.instance:
                self._review(session, stay, instance)

    def _review(self, session: Session, stay: Stay, instance: Instance) -> None:
        decision = self.decide(stay.visitor, stay.right, instance, stay.asked)
        if not decision.allowed or (stay.decision.read_only < decision.read_only):
            self.evicted(stay.visitor, stay.instance.id, decision.reason, session.log.start.session_id)
            session.end(Revoked(decision.reason))

    def _expired(self, session: Session, stay: Stay) -> None:
        """What opened this session is over: it ends, with a word and an audit line."""
        error = self.over(stay.visitor)
        self.evicted(stay.visitor, stay.instance.id, str(error), session.log.start.session_id)
        session.end(error)

    def close(self) -> Deferred[list[tuple[bool, None]]]:
        """No new session from now on; end those that run, each with a word. Fires when all ended."""
        self._closed = True
        return self._roll.end(Draining)
