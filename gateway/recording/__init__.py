"""Sessions as asciicast v2 files, written as they happen, so that what was shown can be shown again.

A door before a door, as `gateway.sftp` is: output is kept before the client sees it, and a guest whose
output comes faster than the disk takes it is held back. Nothing waits for a disk but that. Names are
made of the time and the session alone: nothing that a client or guest says is part of a path.
"""

from gateway.recording.recorder import Recorder

__all__ = ["Recorder"]
