"""The SSH libraries that people build on, as programs: `python -m tests.whole.libraries NAME HOST PORT
KNOWN_HOSTS KEY LINE` runs one command as `ssh` would, its own three streams being the command's.

Exits as the command does; when a signal ended it, with 255 and what the library says of it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator

USER = "alpha"
PIECE = 256 << 10
KILLED = 255


def pieces() -> Iterator[bytes]:
    """Our stdin."""
    while data := sys.stdin.buffer.read(PIECE):
        yield data


def killed(words: str) -> int:
    sys.stderr.write(f"killed: {words}\n")
    return KILLED


def by_paramiko(host: str, port: int, known_hosts: str, key: str, line: str) -> int:
    import paramiko  # noqa: PLC0415

    with paramiko.SSHClient() as client:
        client.load_host_keys(known_hosts)
        client.connect(host, port, USER, key_filename=key, look_for_keys=False, allow_agent=False)
        transport = client.get_transport()
        assert transport is not None
        channel = transport.open_session()
        channel.exec_command(line)
        for data in pieces():
            channel.sendall(data)
        channel.shutdown_write()
        while data := channel.recv(PIECE):
            sys.stdout.buffer.write(data)
        while data := channel.recv_stderr(PIECE):
            sys.stderr.buffer.write(data)
        code = channel.recv_exit_status()
        return code if code >= 0 else killed("no exit status")


def by_asyncssh(host: str, port: int, known_hosts: str, key: str, line: str) -> int:
    import asyncio  # noqa: PLC0415

    import asyncssh  # noqa: PLC0415

    async def run() -> int:
        options = {"username": USER, "client_keys": [key], "known_hosts": known_hosts, "config": None}
        async with asyncssh.connect(host, port, agent_path=None, **options) as client:
            done = await client.run(line, encoding=None, stdin=sys.stdin.buffer)
            sys.stdout.buffer.write(done.stdout)
            sys.stderr.buffer.write(done.stderr)
            return killed(done.exit_signal[0]) if done.exit_signal else done.exit_status

    return asyncio.run(run())


def by_libssh(host: str, port: int, known_hosts: str, key: str, line: str) -> int:
    from ssh import options  # noqa: PLC0415
    from ssh.key import import_privkey_file  # noqa: PLC0415
    from ssh.session import Session  # noqa: PLC0415

    session = Session()
    for option, value in ((options.HOST, host), (options.USER, USER), (options.KNOWNHOSTS, known_hosts)):
        session.options_set(option, value)
    session.options_set_port(port)
    session.connect()
    assert session.is_server_known() == 1
    session.userauth_publickey(import_privkey_file(key))
    channel = session.channel_new()
    channel.open_session()
    channel.request_exec(line)
    for data in pieces():
        channel.write(data)
    channel.send_eof()
    for stream, is_stderr in ((sys.stdout, False), (sys.stderr, True)):
        while (answer := channel.read(PIECE, is_stderr=is_stderr))[0] > 0:
            stream.buffer.write(answer[1])
    code = channel.get_exit_status()
    return code if code >= 0 else killed("no exit status")


LIBRARIES: dict[str, Callable[[str, int, str, str, str], int]] = {
    "paramiko": by_paramiko,
    "asyncssh": by_asyncssh,
    "libssh": by_libssh,
}


if __name__ == "__main__":
    name, host, port, known_hosts, key, line = sys.argv[1:]
    sys.exit(LIBRARIES[name](host, int(port), known_hosts, key, line))
