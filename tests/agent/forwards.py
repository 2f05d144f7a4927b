"""Connect and Listen as a test asks for them: answers taken one by one, credit given as it likes."""

from __future__ import annotations

import contextlib
import os
import queue
import socket
from pathlib import Path
from typing import Any

import grpc
import pytest

from proto import vmgate_pb2 as pb
from tests.support.agent import SECONDS, Client

MIB = 1 << 20
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may become another user")


class Call:
    """One Connect or Listen. Its answers are taken one by one."""

    def __init__(self, rpc: Any, request: type[Any], start: Any) -> None:
        self._request = request
        self._requests: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.send(start=start)
        self.call = rpc(iter(self._requests.get, None), timeout=SECONDS)

    def send(self, **request: Any) -> None:
        self._requests.put(self._request(**request))

    def take(self, kind: str) -> Any:
        """The next message, which must be of this kind."""
        response = next(self.call)
        assert response.WhichOneof("response") == kind, response
        return getattr(response, kind)

    def over(self) -> grpc.StatusCode:
        """How the call ended; no message may come any more."""
        with contextlib.suppress(grpc.RpcError):
            left = list(self.call)
            assert not left, left
        self._requests.put(None)
        return self.call.code()

    def cancel(self) -> None:
        self.call.cancel()
        self._requests.put(None)


class Connection(Call):
    def __init__(self, client: Client, window: int = MIB, **start: Any) -> None:
        super().__init__(client.agent.Connect, pb.ConnectRequest, pb.ConnectStart(window=window, **start))
        self.credit = 0

    def connected(self) -> Connection:
        self.credit = self.take("connected").window
        return self

    def data(self, *, credit: bool = True) -> bytes:
        """What comes until the end of the guest's way."""
        pieces = []
        while (response := next(self.call)).WhichOneof("response") != "end":
            if response.WhichOneof("response") == "data":
                pieces.append(response.data)
                if credit:
                    self.send(credit=len(response.data))
            else:
                self.credit += response.credit
        return b"".join(pieces)

    def take_credit(self) -> None:
        self.credit += self.take("credit")


def to(client: Client, host: str, port: int, **more: Any) -> Connection:
    return Connection(client, place=pb.Place(tcp=pb.TCPPlace(host=host, port=port)), **more)


def to_path(client: Client, path: Path | str, **more: Any) -> Connection:
    return Connection(client, place=pb.Place(path=str(path)), **more)


def listen(client: Client, **place: Any) -> Call:
    user = place.pop("user", "")
    return Call(client.agent.Listen, pb.ListenRequest, pb.ListenStart(place=pb.Place(**place), user=user))


def port_of(server: socket.socket) -> int:
    return int(server.getsockname()[1])


def gone(connection: socket.socket) -> bool:
    """The other side closed it."""
    connection.settimeout(SECONDS)
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True
