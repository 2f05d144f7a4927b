"""Stock Conch, as its own documentation says to set it up: an SSH server for the users of this machine.

python -m bench.servers.conch PORT HOST_KEY AUTHORIZED_KEY
"""

from __future__ import annotations

import sys
import warnings

from twisted.conch import checkers, unix
from twisted.conch.ssh import factory, keys
from twisted.cred import portal
from twisted.internet import reactor


def main() -> None:
    """Serve until a signal."""
    warnings.simplefilter("ignore")  # of privileges, to every client
    port, host_key, allowed = sys.argv[1:]
    key = keys.Key.fromFile(host_key)
    server = factory.SSHFactory()
    server.privateKeys = {b"ssh-ed25519": key}
    server.publicKeys = {b"ssh-ed25519": key.public()}
    database = checkers.InMemorySSHKeyDB({b"root": [keys.Key.fromFile(allowed)]})
    server.portal = portal.Portal(unix.UnixSSHRealm(), [checkers.SSHPublicKeyChecker(database)])
    reactor.listenTCP(int(port), server, interface="127.0.0.1")  # type: ignore[attr-defined]
    reactor.run()  # type: ignore[attr-defined]


if __name__ == "__main__":
    main()
