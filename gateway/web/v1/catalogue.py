"""All messages of vmgate.v1, by who sends them, and their one way onto the wire. Pure."""

from __future__ import annotations

from gateway.entries import Entry, EntryError, Held, Hole, Placed
from gateway.web.message import compact
from gateway.web.v1.entries import Batch, Download, Finish, Ready, Report, Upload, piece_words
from gateway.web.v1.message import Accepted, Credit, Deaf, End, Exec, Exit, Ping, Pong, Resize, Signal, Started

ClientMessage = Exec | Upload | Download | Entry | Batch | Hole | End | Finish | Resize | Signal | Deaf | Credit | Ping
ServerMessage = (
    Accepted | Started | Ready | Entry | Batch | Hole | End | Held | Placed | EntryError | Credit | Pong | Exit | Report
)


def words(message: ClientMessage | ServerMessage) -> dict[str, object]:
    """The JSON object of a message."""
    if isinstance(message, Entry | Hole | Held | Placed | EntryError):
        return piece_words(message)
    return message.words()


def encode(message: ClientMessage | ServerMessage) -> bytes:
    """The text message."""
    return compact(words(message))
