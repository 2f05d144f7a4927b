"""An agent that answers what a test tells it to, down to the byte: for guests that are hostile."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable, Iterable
from concurrent import futures
from pathlib import Path
from typing import Any, Self

import grpc
from google.protobuf.message import Message

from gateway.model import Instance, UnixAddress
from proto import vmgate_pb2

Script = Callable[[Any, Any], Iterable[Message | bytes]]


class ScriptedAgent:
    """`scripts` maps a method's name to what answers it: a function of requests and context that
    gives messages or raw bytes. Methods without a script are unimplemented."""

    def __init__(self, **scripts: Script) -> None:
        self.scripts = scripts
        self.asked: list[str] = []
        self.over = threading.Event()  # set at the end: scripts that stall wait for it
        self._directory = tempfile.TemporaryDirectory(prefix="vmgate-")
        self.path = Path(self._directory.name) / "s"
        self._server = grpc.server(futures.ThreadPoolExecutor(100), options=[("grpc.so_reuseport", 0)])
        self._server.add_generic_rpc_handlers((_Handlers(self),))
        self._server.add_insecure_port(f"unix:{self.path}")
        self._server.start()

    @property
    def instance(self) -> Instance:
        return Instance("i-scripted", "scripted", UnixAddress(str(self.path)))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self._server.stop(None).wait(10)
        self._directory.cleanup()


class _Handlers(grpc.GenericRpcHandler):
    def __init__(self, agent: ScriptedAgent) -> None:
        self._agent = agent

    def service(self, details: Any) -> Any:
        name = details.method.rsplit("/", 1)[1]
        script = self._agent.scripts.get(name)
        self._agent.asked.append(name)
        if script is None:
            return None

        def answer(requests: Any, context: Any) -> Iterable[bytes]:
            for message in script(requests, context):
                yield message if isinstance(message, bytes) else message.SerializeToString()

        # On the wire one response looks as a stream of one.
        return grpc.stream_stream_rpc_method_handler(answer)


def hello(requests: Any, context: Any) -> Iterable[Message]:
    """An agent of our own revision."""
    yield vmgate_pb2.HelloResponse(revision=1, version="scripted", abilities=["sftp"])
