"""What all channels of one connection have in common: who logged in, where, and what is allowed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from twisted.internet.interfaces import IReactorTime

from gateway.errors import Forbidden
from gateway.gate import Gate
from gateway.model import Operation, Place
from gateway.ssh.auth import Login
from gateway.ssh.permit import Permits


@dataclass(frozen=True, slots=True)
class Surroundings:
    """One connection's, with the config of its beginning."""

    gate: Gate
    login: Login
    accept_env: tuple[str, ...]
    permit_user_environment: tuple[str, ...]  # what a line in authorized_keys may set of the environment
    set_env: Mapping[str, str]  # the operator's variables
    wait: float  # seconds for a guest that boots
    ends: tuple[str, int, str, int]  # the client's address and port, and ours
    permits: Permits
    clock: IReactorTime

    def check(self, operation: Operation, place: Place) -> None:
        """Whether the operator allows this forward. Raises Forbidden, with an audit line."""
        try:
            if operation is Operation.FORWARD:
                self.permits.check_connect(place)
            else:
                self.permits.check_listen(place)
        except Forbidden as error:
            self.gate.refused(self.login.visitor, self.login.instance, operation, error)
            raise

    def may(self, operation: Operation, *, terminal: bool = False) -> bool:
        """Whether the gate would let this login do that. Tells nobody."""
        login = self.login
        return self.gate.may(login.visitor, login.instance, operation, user=login.user, terminal=terminal)

    def may_have_terminal(self) -> bool:
        """Whether anything may run in one; who may run nothing at all hears of that instead."""
        if not self.login.key.pty:
            return False
        runs = (Operation.SHELL, Operation.EXEC)
        if any(self.may(run, terminal=True) for run in runs) or not any(self.may(run) for run in runs):
            return True
        error = Forbidden("no terminal", message="A terminal is not allowed here.")
        self.gate.refused(self.login.visitor, self.login.instance, Operation.SHELL, error)
        return False
