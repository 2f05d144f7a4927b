"""The words of the house as plain, frozen data. No behaviour beyond what a word means, no I/O."""

from __future__ import annotations

import re
import signal
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, IntEnum

# RFC 4254 section 6.10: the signals that have a portable name, without SIG.
SIGNALS: Mapping[str, int] = {
    name: int(signal.Signals[f"SIG{name}"])
    for name in (
        "ABRT", "ALRM", "FPE", "HUP", "ILL", "INT", "KILL", "PIPE", "QUIT", "SEGV", "TERM", "USR1", "USR2",
    )
}  # fmt: skip


class Operation(str, Enum):
    """What a principal asks for; the closed list that policy, audit and metrics share."""

    EXEC = "exec"
    SHELL = "shell"
    SFTP = "sftp"
    UPLOAD = "upload"
    DOWNLOAD = "download"
    STAT = "stat"
    LIST = "list"
    FORWARD = "forward"  # one connection, from the client into the guest or the other way
    LISTEN = "listen"  # a listener in the guest, for connections to the client
    REPLAY = "replay"  # what sessions showed, whosever they were


class Outcome(str, Enum):
    """How a session ended; the closed list that log, metric label and test share."""

    COMPLETED = "completed"
    REFUSED = "refused"
    UNREACHABLE = "unreachable"
    LOST = "lost"
    TIMED_OUT = "timed_out"
    OVERRUN = "overrun"
    ENDED = "ended"
    FAILED = "failed"


class Limit(str, Enum):
    """What was too much; the closed list of the metrics."""

    SESSIONS = "sessions"  # of the gateway
    RULE_SESSIONS = "rule_sessions"  # of one subject, by its rule
    RULE_IDLE = "rule_idle"  # nothing moved for too long
    RULE_TOTAL = "rule_total"  # it lasted for too long
    CHANNELS = "channels"  # sessions on one SSH connection
    FORWARDS = "forwards"  # forwards on one SSH connection
    CONNECTIONS = "connections"  # of the HTTP front
    AUTH_TRIES = "auth_tries"
    LOGIN_GRACE = "login_grace"
    TIMEOUT = "timeout"  # that a client gave its command
    CREDIT = "credit"  # a client sent more than it was given credit for
    FILES = "files"  # of one session that the audit tells one by one


class Offence(IntEnum):
    """What a connection did instead of logging in, the worst last; the words are those of sshd_config(5)'s
    PerSourcePenalties."""

    NOAUTH = 1  # it spoke, and tried nothing
    AUTHFAIL = 2  # it tried, and was refused
    GRACE_EXCEEDED = 3  # it held its place until its time was over
    CRASH = 4  # it met a mistake of ours

    @property
    def word(self) -> str:
        return self.name.lower()


class Via(str, Enum):
    """The front by which a client came in; LIBRARY is a Python program that needs none."""

    SSH = "ssh"
    WEB = "web"
    LIBRARY = "library"


# What an instance may be called, as id and as name.
ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


@dataclass(frozen=True, slots=True)
class MuxerAddress:
    """A hypervisor's unix socket that takes `CONNECT port` (Cloud Hypervisor, Firecracker)."""

    path: str
    below: str = ""  # a directory above it: below that no part of the path may be a symlink


@dataclass(frozen=True, slots=True)
class CidAddress:
    """A guest's AF_VSOCK context id (QEMU with vhost-vsock); 3 or more, since 0 to 2 are no guests."""

    cid: int


@dataclass(frozen=True, slots=True)
class UnixAddress:
    """An agent's own unix socket, with nothing in between."""

    path: str


Address = MuxerAddress | CidAddress | UnixAddress


@dataclass(frozen=True, slots=True)
class Instance:
    """A VM as its users name it."""

    id: str
    name: str
    address: Address
    state: str = "Running"
    image: str = ""
    created_at: str = ""  # RFC 3339
    labels: Mapping[str, str] = field(default_factory=dict, hash=False)  # for policy rules

    @property
    def running(self) -> bool:
        return self.state == "Running"

    @property
    def off(self) -> bool:
        """Whether there is no guest any more: whoever was in it is out."""
        return self.state in ("Stopped", "Shutdown", "Standby")


EVERYTHING = frozenset({"*"})
# wire.md section 2 has the first two; the last is to read files and nothing else.
WRITE, READ, READ_FILES = "instance:write", "instance:read", "files:read"
PERMISSIONS = frozenset({*EVERYTHING, WRITE, READ, READ_FILES})


@dataclass(frozen=True, slots=True)
class Principal:
    """Who a verified credential proved somebody to be. Nothing else decides later."""

    subject: str
    how: str  # "publickey", "certificate" or "token"
    # Ids or names that may be entered; "*" = every one; None = the credential does not say, policy rules do.
    instances: frozenset[str] | None = frozenset()
    permissions: frozenset[str] = EVERYTHING  # the permissions of wire.md section 2; "*" = all
    # For the audit: a key's fingerprint, a token's jti and issuer, a certificate's serial and CA.
    credential: str = ""
    groups: frozenset[str] = frozenset()
    claims: Mapping[str, object] = field(default_factory=dict, hash=False, repr=False)  # of a token, for policy rules
    until: float | None = None  # seconds since the epoch: what it opened ends then; None = it does not expire


@dataclass(frozen=True, slots=True)
class Window:
    """A terminal's size: characters, and pixels where the client knows them."""

    rows: int = 24
    cols: int = 80
    width: int = 0
    height: int = 0


@dataclass(frozen=True, slots=True)
class Terminal:
    """A pseudo-terminal that was asked for, with its modes as RFC 4254 section 8 encodes them."""

    window: Window = Window()
    modes: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecRequest:
    """One process to start in a guest.

    Exactly one of three says which: `command` is run as it is; `line` is handed to the user's
    login shell (b"" = an interactive login shell); `subsystem` names a server of the agent.
    """

    command: tuple[str, ...] = ()
    line: bytes | None = None
    subsystem: str = ""
    terminal: Terminal | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    cwd: str = ""
    timeout: int = 0  # seconds; 0 = none
    user: str = ""  # of the guest; empty = the agent's default


class Stream(IntEnum):
    """Which of a process's two outputs."""

    STDOUT = 1
    STDERR = 2


@dataclass(frozen=True, slots=True)
class Output:
    """Bytes as the process wrote them."""

    stream: Stream
    data: bytes


@dataclass(frozen=True, slots=True)
class Ending:
    """How a process ended: always with a code, and with the signal when one did it."""

    code: int  # its own, 128 + signal, 124 after a timeout, 126 or 127 when it never ran
    signal: str = ""  # without SIG
    core_dumped: bool = False
    timed_out: bool = False


@dataclass(frozen=True, slots=True)
class TCPPlace:
    """A port of the guest, or of what the guest reaches. To listen: host "" = every address of it,
    "localhost" = its loopback; port 0 = any that is free."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class UnixPlace:
    """A unix socket of the guest, by its absolute path."""

    path: str

    def __str__(self) -> str:
        return self.path


@dataclass(frozen=True, slots=True)
class PrivatePlace:
    """To listen: a new unix socket of the guest that only its user reaches."""

    def __str__(self) -> str:
        return "a private socket"


Place = TCPPlace | UnixPlace | PrivatePlace


@dataclass(frozen=True, slots=True)
class PortPattern:
    """Ports that may be forwarded, as one entry of sshd's PermitOpen: a host as it is spelled, or
    "*"; a port, or None for every one."""

    host: str
    port: int | None

    @classmethod
    def parse(cls, text: str) -> PortPattern:
        """`host:port`, `[address]:port`, either part `*`. Raises ValueError."""
        host, colon, port = text.rpartition(":")
        if host.startswith("[") and host.endswith("]"):
            host = host[1:-1]
        elif ":" in host:
            colon = ""
        if not (host and colon) or not (port == "*" or (port.isascii() and port.isdigit() and int(port) < 1 << 16)):
            raise ValueError(text)
        return cls(host, None if port == "*" else int(port))

    def matches(self, host: str, port: int) -> bool:
        return self.host in ("*", host) and self.port in (None, port)


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a page of a browser is from, as browsers spell it (RFC 6454 section 6.2)."""

    scheme: str  # http or https
    host: str  # lower case; an IPv6 address in its brackets
    port: int

    @classmethod
    def parse(cls, text: str) -> Origin:
        """`https://host` or `https://host:port` and nothing else: no path, user or upper case. Raises ValueError."""
        spelled = re.fullmatch(r"(https?)://([a-z0-9._-]{1,253}|\[[0-9a-f:.]{2,45}\])(?::([1-9][0-9]{0,4}))?", text)
        if not spelled or int(spelled[3] or 0) >= 1 << 16:
            raise ValueError(text)
        scheme, host, port = spelled.groups()
        return cls(scheme, host, int(port) if port else {"http": 80, "https": 443}[scheme])
