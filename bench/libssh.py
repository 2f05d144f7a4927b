"""Logins by libssh, one after the other, each with one `true`: a client that costs less than OpenSSH's.

    python -m bench.libssh PORT USER KEY COUNT

Says "ready", and begins when its stdin ends.
"""

from __future__ import annotations

import sys

from ssh.key import import_privkey_file
from ssh.session import Session


def main() -> None:
    """Log in and out."""
    port, user, path, count = sys.argv[1:]
    key = import_privkey_file(path)
    once(int(port), user, key)
    print("ready", flush=True)
    sys.stdin.read()
    for _ in range(int(count)):
        once(int(port), user, key)


def once(port: int, user: str, key: object) -> None:
    """One login. Raises what libssh raises."""
    session = Session()
    session.options_set_port(port)
    session.options_set(_HOST, "127.0.0.1")
    session.options_set(_USER, user)
    session.connect()
    session.userauth_publickey(key)
    channel = session.channel_new()
    channel.open_session()
    channel.request_exec("true")
    while channel.read()[0] > 0:
        pass
    channel.close()
    session.disconnect()


if __name__ == "__main__":
    from ssh import options

    _HOST, _USER = options.HOST, options.USER
    main()
