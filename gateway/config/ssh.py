"""The table [ssh], and what of SSH there is to choose from."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from gateway.model import PortPattern
from gateway.table import Table

# What the SSH front can, in the order of preference; what is offered unless the file says otherwise.
CIPHERS = (
    "aes128-gcm@openssh.com", "aes256-gcm@openssh.com", "chacha20-poly1305@openssh.com",
    "aes128-ctr", "aes192-ctr", "aes256-ctr",
)  # fmt: skip
SAFE_MACS = ("hmac-sha2-256-etm@openssh.com", "hmac-sha2-512-etm@openssh.com")
MACS = (*SAFE_MACS, "hmac-sha2-256", "hmac-sha2-512")
SAFE_KEX = ("mlkem768x25519-sha256", "curve25519-sha256", "curve25519-sha256@libssh.org")
KEX = (
    *SAFE_KEX,
    "diffie-hellman-group16-sha512", "diffie-hellman-group18-sha512", "diffie-hellman-group-exchange-sha256",
    "ecdh-sha2-nistp256", "ecdh-sha2-nistp384", "ecdh-sha2-nistp521",
)  # fmt: skip
# By which users may sign; those of certificates are names of their own.
PUBKEY = (
    "ssh-ed25519", "sk-ssh-ed25519@openssh.com", "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "ecdsa-sha2-nistp521",
    "sk-ecdsa-sha2-nistp256@openssh.com", "rsa-sha2-512", "rsa-sha2-256",
)  # fmt: skip
PUBKEY_ACCEPTED = (*PUBKEY, *(f"{name}-cert-v01@openssh.com" for name in PUBKEY if not name.startswith("sk-")))
MAX_BANNER = 128 << 10  # bytes; OpenSSH's clients take packets of 256 KiB
FORWARDING = ("yes", "no", "local", "remote")


@dataclass(frozen=True, kw_only=True)
class SSHConfig:
    """The SSH front."""

    listen: tuple[str, ...]  # Twisted endpoint strings
    host_keys: tuple[Path, ...]  # the first is made when it does not exist
    authorized_keys: Path
    host_certificates: tuple[Path, ...] = ()  # of those keys, for clients that trust a CA
    trusted_user_ca_keys: Path | None = None  # CAs whose user certificates count
    revoked_keys: tuple[Path, ...] = ()  # key revocation lists, and lists of public keys
    pubkey_accepted_algorithms: tuple[str, ...] = PUBKEY_ACCEPTED
    force_command: str = ""  # runs whatever clients, keys and certificates ask for
    permit_user_environment: tuple[str, ...] = ()  # names and patterns of what `environment=` of keys may set
    token_authentication: bool = False  # whether a token may be typed where others ask for a password
    accept_env: tuple[str, ...] = ("LANG", "LC_*")  # names and patterns, as sshd's AcceptEnv
    set_env: Mapping[str, str] = field(default_factory=dict)  # for every session, whatever its client asks for
    login_grace: float = 30  # seconds from accept to a finished login
    max_auth_tries: int = 6
    max_channels: int = 64  # sessions a connection
    wait_for_agent: float = 5  # seconds that a login waits for a guest that boots
    banner: str = ""  # told before the login
    ciphers: tuple[str, ...] = CIPHERS
    macs: tuple[str, ...] = SAFE_MACS
    kex_algorithms: tuple[str, ...] = SAFE_KEX
    compression: bool = True  # after the login, for clients that ask
    rekey_bytes: int = 1 << 30
    rekey_seconds: float = 3600
    keepalive_interval: float = 60  # seconds of silence before a client is asked whether it is there; 0 = never
    keepalive_count: int = 5  # questions without an answer before it is given up
    # Forwards end in the guest. The words are those of sshd_config(5).
    allow_tcp_forwarding: str = "yes"  # yes, no, local or remote
    allow_streamlocal_forwarding: str = "yes"  # the same, for unix sockets
    allow_agent_forwarding: bool = True
    gateway_ports: bool = False  # whether -R may listen elsewhere than at the guest's loopback
    permit_open: tuple[PortPattern, ...] = (PortPattern("*", None),)  # where -L, -D, -W may lead
    permit_listen: tuple[PortPattern, ...] = (PortPattern("*", None),)  # where -R may listen
    max_forwards: int = 256  # forwarded connections at once on one connection

    @classmethod
    def of(cls, table: Table | None, read: Callable[[Path], bytes]) -> SSHConfig | None:
        """What the table says; None without it. What is wrong with it is the table's problem."""
        if table is None:
            return None
        config = cls(
            listen=table.texts("listen", ("tcp:2222",)),
            host_keys=_host_keys(table),
            authorized_keys=table.path("authorized_keys", "authorized_keys", trusted=True),
            host_certificates=_paths(table, "host_certificates"),
            trusted_user_ca_keys=table.maybe_path("trusted_user_ca_keys", trusted=True),
            revoked_keys=_paths(table, "revoked_keys"),
            pubkey_accepted_algorithms=table.names(
                "pubkey_accepted_algorithms", cls.pubkey_accepted_algorithms, PUBKEY_ACCEPTED
            ),
            force_command=table.text("force_command", ""),
            permit_user_environment=table.texts("permit_user_environment", ()),
            token_authentication=table.truth("token_authentication", cls.token_authentication),
            accept_env=table.texts("accept_env", cls.accept_env),
            set_env=_variables(table.table("set_env")),
            login_grace=table.number("login_grace", cls.login_grace, 1, 3600),
            max_auth_tries=table.whole("max_auth_tries", cls.max_auth_tries, 1, 100),
            max_channels=table.whole("max_channels", cls.max_channels, 1, 1000),
            wait_for_agent=table.number("wait_for_agent", cls.wait_for_agent, 0, 600),
            banner=_banner(table, read),
            ciphers=table.names("ciphers", cls.ciphers, CIPHERS),
            macs=table.names("macs", cls.macs, MACS),
            kex_algorithms=table.names("kex_algorithms", cls.kex_algorithms, KEX),
            compression=table.truth("compression", cls.compression),
            # RFC 4344 section 3.2 ends at 2^32 blocks of AES; below 16 KiB there is a key exchange a packet.
            rekey_bytes=table.whole("rekey_bytes", cls.rekey_bytes, 1 << 14, 1 << 36),
            rekey_seconds=table.number("rekey_seconds", cls.rekey_seconds, 1, 86_400),
            keepalive_interval=table.number("keepalive_interval", cls.keepalive_interval, 0, 86_400),
            keepalive_count=table.whole("keepalive_count", cls.keepalive_count, 1, 1000),
            allow_tcp_forwarding=table.choice("allow_tcp_forwarding", cls.allow_tcp_forwarding, FORWARDING),
            allow_streamlocal_forwarding=table.choice(
                "allow_streamlocal_forwarding", cls.allow_streamlocal_forwarding, FORWARDING
            ),
            allow_agent_forwarding=table.truth("allow_agent_forwarding", cls.allow_agent_forwarding),
            gateway_ports=table.truth("gateway_ports", cls.gateway_ports),
            permit_open=_ports(table, "permit_open", cls.permit_open),
            permit_listen=_ports(table, "permit_listen", cls.permit_listen),
            max_forwards=table.whole("max_forwards", cls.max_forwards, 1, 10_000),
        )
        table.done()
        return config


def _paths(table: Table, key: str) -> tuple[Path, ...]:
    """One file or several; relative ones are below the table's base."""
    return tuple(table.file(key, name) for name in table.texts(key, ()))


def _host_keys(table: Table) -> tuple[Path, ...]:
    """`host_key` names one, `host_keys` several."""
    several = table.texts("host_keys", ())
    if "host_keys" in table.data and "host_key" in table.data:
        table.problem("host_keys", "give either host_key or host_keys")
    if "host_keys" in table.data and not several:
        table.problem("host_keys", "name at least one file")
    one = table.path("host_key", "ssh_host_ed25519_key", secret=True)
    return tuple(table.file("host_keys", name, secret=True) for name in several) or (one,)


def _banner(table: Table, read: Callable[[Path], bytes]) -> str:
    """The text of a file as it is, which is what sshd tells (RFC 4252 section 5.4)."""
    file = table.maybe_path("banner")
    if file is None:
        return ""
    try:
        text = read(file)
        if len(text) > MAX_BANNER:
            table.problem("banner", f"{file} is longer than {MAX_BANNER} bytes")
        return text.decode()
    except OSError as error:
        table.problem("banner", f"{file} cannot be read: {error.strerror}")
    except UnicodeDecodeError:
        table.problem("banner", f"{file} is not UTF-8")
    return ""


def _ports(table: Table, key: str, default: tuple[PortPattern, ...]) -> tuple[PortPattern, ...]:
    """A list of `host:port`, either of them `*`; an empty one allows nothing."""
    patterns = list(default) if key not in table.data else []
    for text in table.texts(key, ()):
        try:
            patterns.append(PortPattern.parse(text))
        except ValueError:
            table.problem(key, f"{text!r} is not host:port, such as localhost:80, *:8080 or [::1]:*")
    return tuple(patterns)


def _variables(table: Table | None) -> Mapping[str, str]:
    """Environment variables by their names."""
    if table is None:
        return {}
    variables = {name: table.text(name, "") for name in table.data}
    for name, value in variables.items():
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            table.problem(name, "a variable's name may hold letters, digits and underscore only")
        if "\0" in value:
            table.problem(name, "a variable cannot hold a NUL")
    return variables
