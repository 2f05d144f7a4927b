"""A guest's process whose output is kept on its way, and its input where that is asked for."""

from __future__ import annotations

from codecs import getincrementaldecoder

from twisted.internet.defer import Deferred

from gateway.doors import Process
from gateway.model import Ending, Output, Stream, Window
from gateway.recording.tape import Tape


class Recorded:
    """Implements `gateway.doors.Process` around another, and keeps what it shows."""

    def __init__(self, process: Process, tape: Tape) -> None:
        self.tty = process.tty
        self._process = process
        self._tape = tape
        # A character may come in two pieces, of each stream by itself; what is no UTF-8 is shown as U+FFFD.
        decoder = getincrementaldecoder("utf-8")
        self._shown = {stream: decoder("replace") for stream in Stream}
        self._typed = decoder("replace")

    def receive(self) -> Deferred[Output | Ending]:
        room = self._tape.room()
        return room.addCallback(lambda _: self._process.receive()).addCallback(self._keep)

    def _keep(self, piece: Output | Ending) -> Output | Ending:
        if isinstance(piece, Output):
            self._tape.put("o", self._shown[piece.stream].decode(piece.data))
            return piece
        for decoder in self._shown.values():
            self._tape.put("o", decoder.decode(b"", True))
        self._tape.put("m", f"killed by SIG{piece.signal}" if piece.signal else f"exit {piece.code}")
        return piece

    def send(self, data: bytes) -> Deferred[None]:
        if not self._tape.input:
            return self._process.send(data)
        self._tape.put("i", self._typed.decode(data))
        return self._tape.room().addCallback(lambda _: self._process.send(data))

    def resize(self, window: Window) -> None:
        self._tape.put("r", f"{window.cols}x{window.rows}")
        self._process.resize(window)

    def close(self) -> None:
        self._process.close()
        self._tape.close()

    # The rest is the guest's.

    def end(self) -> Deferred[None]:
        return self._process.end()

    def signal(self, name: str) -> None:
        self._process.signal(name)

    def deaf(self) -> None:
        self._process.deaf()
