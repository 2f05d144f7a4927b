"""SFTP version 3, served inside the guest, as OpenSSH's sftp-server speaks it.

One small process a session, with two file descriptors and the rights of the session's user: it
does what the kernel lets that user do, and checks nothing more. No grpc, no asyncio, nothing that
starts slowly. `python -m agent.sftp` serves standard input and output.
"""

from agent.sftp.server import serve

__all__ = ["serve"]
