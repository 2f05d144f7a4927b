"""Who is let in to which instance for what: permission, instance, state, in that order, and an audit
line for whoever is not. Keeps no session, reaches no guest."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import islice

from gateway.config.policy import Policy
from gateway.doors import Instances
from gateway.errors import Ambiguous, Expired, Forbidden, GateError, InvalidState, NotFound
from gateway.events import Authenticated, Events, Evicted, Refused, Replayed
from gateway.model import EVERYTHING, Instance, Operation, Place, Principal
from gateway.policy import Asked, Decision, decide, named
from gateway.roll import Visitor

NOBODY = Principal("", "")
PART = 200  # instances that are asked about before others have their turn
NEAR = 8  # instances that the beginning of an id may fit where rules say who sees which


class Porter:
    """Answers by the instances and the policy of now."""

    def __init__(self, instances: Instances, events: Events, policy: Policy) -> None:
        self.events = events
        self.policy = policy
        self._instances = instances

    def visible(self, principal: Principal, source: str | None = None) -> Iterator[list[Instance]]:
        """The instances that this principal may do anything with, from there; of others it learns nothing.
        In parts, those of `PART` that were asked about: there may be many, and rules take their time."""
        asked = Asked(source=source)
        named = self._named(principal)
        all_of_them = iter(self._instances.listing() if named is None else named)
        while part := list(islice(all_of_them, PART)):
            yield [i for i in part if self._sees(principal, i, asked)]

    def _named(self, principal: Principal) -> list[Instance] | None:
        """Those that a credential names, which are all that it could ever see; None where it names no single ones."""
        words = principal.instances
        return None if words is None or "*" in words else self._instances.listing().called(words)

    def _sees(self, principal: Principal, instance: Instance, asked: Asked) -> bool:
        """Without rules a credential sees what it names, whatever permissions it has."""
        if self.policy.rules is None:
            return named(principal, instance, self.policy)
        return decide(replace(principal, permissions=EVERYTHING), Operation.LIST, instance, asked, self.policy).allowed

    def find(self, principal: Principal, name: str, source: str | None = None) -> Instance:
        """Among those it may see: an exact id, else an exact name, else a unique prefix of an id
        (wire.md section 2). Raises NotFound or Ambiguous."""
        listing = self._instances.listing()
        asked = Asked(source=source)
        near: Iterable[Instance] | None = self._named(principal)
        crowded = False
        if near is None:
            # Always as many are asked about, whatever the name is and before it is compared: what there is
            # besides must not be told by the time it takes.
            near = listing.near(name, NEAR)
            crowded = listing.begun(name) > NEAR
        known = {i.id: i for i in near if self._sees(principal, i, asked)}.values()
        for matches in ([i for i in known if i.id == name], [i for i in known if i.name == name]):
            if len(matches) == 1:
                return matches[0]
            if matches:
                raise Ambiguous()
        matches = [i for i in known if name and i.id.startswith(name)]
        if len(matches) == 1 and not crowded:
            return matches[0]
        if matches:
            raise Ambiguous()
        raise NotFound(f"no instance {name!r} for {principal.subject}")

    def permit(self, visitor: Visitor, operation: Operation, name: str = "") -> None:
        """Raises Forbidden, with an audit line, when the principal may nowhere do this."""
        decision = self.decide(visitor, operation, None, Asked())
        if not decision.allowed:
            error = self.forbidden(decision)
            self.refused(visitor, name, operation, error)
            raise error

    def may(self, visitor: Visitor, name: str, operation: Operation, *, user: str, terminal: bool = False) -> bool:
        """Whether it would be let in for this, in whatever state the instance is. Tells nobody."""
        asked = Asked(source=visitor.peer, user=user, terminal=terminal)
        try:
            instance = self.find(visitor.now or NOBODY, name, visitor.peer)
        except GateError:
            return False
        return self.decide(visitor, operation, instance, asked).allowed

    def knows(self, visitor: Visitor, name: str) -> bool:
        """Whether it may do anything in an instance of that name. Tells nobody."""
        try:
            self.find(visitor.now or NOBODY, name, visitor.peer)
        except GateError:
            return False
        return True

    def enter(
        self,
        visitor: Visitor,
        name: str,
        operation: Operation,
        *,
        place: Place | None = None,
        instead: Operation | None = None,
        running: bool = True,
    ) -> Instance:
        """The instance of that name, which runs unless that does not matter, for this operation, or for another
        where it is not known yet which of two it will be. Raises Forbidden, NotFound, Ambiguous or InvalidState,
        each with an audit line."""
        self.permit(visitor, operation, name)
        asked = Asked(source=visitor.peer, place=place)
        try:
            instance = self.find(visitor.now or NOBODY, name, visitor.peer)
            decision = self.decide(visitor, operation, instance, asked)
            if not decision.allowed and not (instead and self.decide(visitor, instead, instance, asked).allowed):
                raise self.forbidden(decision)
            if running and not instance.running:
                raise InvalidState(state=instance.state)
        except GateError as error:
            self.refused(visitor, name, operation, error)
            raise
        return instance

    def look(self, visitor: Visitor, name: str) -> Instance:
        """The instance of that name in whatever state, to tell about it. Raises Forbidden, NotFound or
        Ambiguous, each with an audit line."""
        self.permit(visitor, Operation.LIST, name)
        try:
            return self.find(visitor.now or NOBODY, name, visitor.peer)
        except GateError as error:
            self.refused(visitor, name, Operation.LIST, error)
            raise

    def decide(self, visitor: Visitor, operation: Operation, instance: Instance | None, asked: Asked) -> Decision:
        """What the policy of now says, by what the credential proves now."""
        principal = visitor.now
        if principal is None:
            return Decision(False, f"the {visitor.principal.how} of {visitor.principal.subject} holds no more")
        return decide(principal, operation, instance, asked, self.policy)

    @staticmethod
    def forbidden(decision: Decision) -> Forbidden:
        """What a refused visitor hears; why is for the audit."""
        if decision.missing_scope:
            return Forbidden(decision.reason, message=f"missing required scope: {decision.missing_scope}")
        return Forbidden(decision.reason, message="You may not do this in this instance.")

    @staticmethod
    def over(visitor: Visitor) -> Expired:
        """What those hear whose credential expired while they were in."""
        how = visitor.principal.how
        return Expired(what="key" if how == "publickey" else how)

    def authenticated(self, visitor: Visitor, name: str = "") -> None:
        """Tell the audit that somebody proved who it is, on the way to this instance."""
        who = visitor.principal
        self.events.emit(
            Authenticated(
                via=visitor.via,
                subject=who.subject,
                how=who.how,
                credential=who.credential,
                instance=name[:256],
                peer=visitor.peer,
            )
        )

    def may_replay(self, visitor: Visitor, instance: Instance) -> bool:
        """Whether it may see what sessions there showed. Tells nobody."""
        return self.decide(visitor, Operation.REPLAY, instance, Asked(source=visitor.peer)).allowed

    def replayed(self, visitor: Visitor, instance: Instance, session: str, file: str, part: tuple[int, int]) -> None:
        """Tell the audit that somebody is shown what a session showed, or a part of it: from there, so many bytes."""
        self.events.emit(
            Replayed(
                via=visitor.via,
                subject=visitor.principal.subject,
                peer=visitor.peer,
                instance_id=instance.id,
                session_id=session,
                file=file,
                offset=part[0],
                size=part[1],
            )
        )

    def refused(self, visitor: Visitor, name: str, operation: Operation, error: GateError) -> None:
        """Tell the audit that somebody was turned away."""
        self.events.emit(
            Refused(
                via=visitor.via,
                subject=visitor.principal.subject,
                instance=name[:256],
                operation=operation.value,
                reason=str(error),
                peer=visitor.peer,
            )
        )

    def evicted(self, visitor: Visitor, name: str, reason: str, session_id: str = "") -> None:
        """Tell the audit that somebody is put out: of a session, or with a connection that has none."""
        self.events.emit(
            Evicted(
                via=visitor.via,
                subject=visitor.principal.subject,
                instance=name[:256],
                session_id=session_id,
                reason=reason,
                peer=visitor.peer,
            )
        )
