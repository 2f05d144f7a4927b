"""The tables `[[tokens]]`: whose tokens are believed besides those of `[http] token_secret_files`, and by which keys.

Keys of files are read here, so that what is wrong with one has its line; a JWKS URL is asked by `gateway.jwks`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

from cryptography.x509 import load_pem_x509_certificates

from gateway.keyset import ALGORITHMS, SECRET_BITS, BadKey, TokenKey, read_keys, secret
from gateway.table import Table

MAX_ISSUERS = 16
DAY = 86_400
# HS384 and HS512 want longer secrets, so who has those says it.
PUBLIC = tuple(name for name in ALGORITHMS if name not in SECRET_BITS)
USUAL = ("HS256", *PUBLIC)


@dataclass(frozen=True, kw_only=True)
class JWKSConfig:
    """A JWK set at a URL."""

    url: str  # https, or http to this machine's loopback
    algorithms: tuple[str, ...] = PUBLIC
    cache: Path | None = None  # where the last good answer is kept over a restart
    refresh: float = 600  # seconds between two looks
    max_age: float = DAY  # seconds that the last good answer counts while there is no other
    ca: bytes = b""  # PEM: certificates to trust instead of the system's


@dataclass(frozen=True, kw_only=True)
class IssuerConfig:
    """Whose tokens, and what must be in them."""

    issuer: str = ""  # what iss must be; "" = anything
    audience: tuple[str, ...] = ()  # one of which aud must hold; () = anything
    keys: tuple[TokenKey, ...] = field(default=(), repr=False)  # of files
    jwks: JWKSConfig | None = None
    require_exp: bool = True
    subject_claim: str = "sub"
    groups_claim: tuple[str, ...] = ("groups",)  # a path, from the claims down
    # wire.md section 2: absent claims mean everything, and other kinds of the same issuer's tokens are told apart.
    contract: bool = False


def read_tokens(top: Table, read: Callable[[Path], bytes]) -> tuple[IssuerConfig, ...]:
    """Every `[[tokens]]` of the configuration, whatever is wrong with one told to its table."""
    tables = top.tables("tokens")
    if len(tables) > MAX_ISSUERS:
        top.problem("tokens", f"more than {MAX_ISSUERS} of them")
    return tuple(_issuer(table, read) for table in tables[:MAX_ISSUERS])


def _issuer(table: Table, read: Callable[[Path], bytes]) -> IssuerConfig:
    algorithms = table.names("algorithms", USUAL, ALGORITHMS)
    jwks = _jwks(table, algorithms, read)
    config = IssuerConfig(
        issuer=table.text("issuer", ""),
        audience=table.texts("audience", ()),
        keys=tuple(_keys(table, algorithms, read)),
        jwks=jwks,
        require_exp=table.truth("require_exp", IssuerConfig.require_exp),
        subject_claim=table.text("subject_claim", "sub") or "sub",
        groups_claim=table.texts("groups_claim", IssuerConfig.groups_claim),
    )
    if jwks:
        # What is behind a URL signs for others too: whose token, and for whom, must be looked at (RFC 8725
        # sections 3.8 and 3.9), or it must be said that nobody looks.
        for key in ("issuer", "audience"):
            if key not in table.data:
                table.problem(key, f'what {key} tokens must have; {key} = "" if anything will do')
    elif not {"key_files", "secret_files"} & table.data.keys():
        table.problem("", "name what verifies its tokens: key_files, secret_files or jwks_url")
    table.done()
    return config


def _keys(table: Table, algorithms: tuple[str, ...], read: Callable[[Path], bytes]) -> Iterator[TokenKey]:
    for key in ("key_files", "secret_files"):
        files = table.texts(key, ())
        if key in table.data and not files:
            table.problem(key, "name at least one file")
        for file in files:
            try:
                text = read(table.file(key, file, trusted=True))
                found = (secret(text.strip(), algorithms),) if key == "secret_files" else read_keys(text, algorithms)
                if any(isinstance(one.material, bytes) for one in found):  # a JWK set may hold some too
                    table.file(key, file, secret=True)
                yield from found
            except OSError as error:
                table.problem(key, f"{file} cannot be read: {error.strerror}")
            except BadKey as problem:
                table.problem(key, f"{file}: {problem}")


def _jwks(table: Table, algorithms: tuple[str, ...], read: Callable[[Path], bytes]) -> JWKSConfig | None:
    url = table.text("jwks_url", "")
    config = JWKSConfig(
        url=url,
        algorithms=tuple(name for name in algorithms if name in PUBLIC),
        cache=table.maybe_path("jwks_cache"),
        refresh=table.number("jwks_refresh", JWKSConfig.refresh, 10, DAY),
        max_age=table.number("jwks_max_age", JWKSConfig.max_age, 60, 30 * DAY),
        ca=_ca(table, read),
    )
    if not url:
        for key in table.data:
            if key.startswith("jwks_"):
                table.problem(key, "says how jwks_url is asked, and there is none")
        return None
    try:
        parts = urlsplit(url)
        good = bool(parts.hostname) and (parts.port is None or parts.port > 0) and url.isascii() and url.isprintable()
    except ValueError:
        good, parts = False, urlsplit("")
    if not good or parts.fragment or parts.username is not None or " " in url or not _safe(parts):
        table.problem("jwks_url", "an https URL is needed (http to this machine's loopback alone), without user and #")
    if not config.algorithms:
        table.problem("algorithms", "none of them is for keys that everybody can read")
    if config.max_age < config.refresh:
        table.problem("jwks_max_age", "it must not be less than jwks_refresh")
    return config


def _safe(url: SplitResult) -> bool:
    """Whether nobody on the way can put keys of their own into the answer."""
    host = url.hostname or ""
    if url.scheme == "https" or host == "localhost":
        return url.scheme in ("http", "https")
    try:
        return url.scheme == "http" and ip_address(host).is_loopback
    except ValueError:
        return False


def _ca(table: Table, read: Callable[[Path], bytes]) -> bytes:
    file = table.maybe_path("jwks_ca")
    if file is None:
        return b""
    try:
        text = read(file)
    except OSError as error:
        table.problem("jwks_ca", f"{file} cannot be read: {error.strerror}")
        return b""
    try:
        load_pem_x509_certificates(text)
    except ValueError:
        table.problem("jwks_ca", f"{file} holds no certificates in PEM")
    return text
