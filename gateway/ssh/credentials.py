"""The files that say which SSH keys let in: authorized keys, trusted CAs, what is revoked of both. The first
and the last are read again as they change, as sshd reads them at each login; the CAs with each reload."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, TypeVar

from twisted.logger import Logger

from gateway.auth.certificates import Authorities, certifies, read_certificate
from gateway.auth.grants import Proof, by_authority, by_lines
from gateway.auth.keys import MAX_TEXT, AuthorizedKeys, parse
from gateway.auth.krl import KRL
from gateway.auth.revocation import MAX_LIST, BadList, Revocations, Revoked
from gateway.auth.revocation import parse as parse_list
from gateway.config import SSHConfig
from gateway.errors import ConfigError

TICK = 2  # seconds, the coarsest that a file system keeps times
T = TypeVar("T")


class Watched(Generic[T]):
    """What a file says now: read again whenever it is another or has changed."""

    def __init__(self, path: Path, parse: Callable[[bytes], T], most: int) -> None:
        """`parse` gets one byte more than `most` of a file that is longer."""
        self.path = path
        self._parse = parse
        self._most = most
        self._mark: tuple[int, int, int] | None = None
        self._said: T | None = None

    def __call__(self) -> T:
        """Raises OSError, and what `parse` raises."""
        try:
            status = self.path.stat()
            mark = (status.st_ino, status.st_size, status.st_mtime_ns)
            if self._said is None or mark != self._mark:
                with self.path.open("rb") as file:
                    self._said = self._parse(file.read(self._most + 1))
                # A file that changed just now may change again within the same tick of its clock.
                self._mark = mark if time.time() - status.st_mtime > TICK else None
        except BaseException:
            self._said = self._mark = None
            raise
        return self._said


class KeyFile:
    """authorized_keys as it is now."""

    _log = Logger()

    def __init__(self, path: Path) -> None:
        self._file = Watched(path, self._read, MAX_TEXT)
        self._warnings: tuple[str, ...] = ()
        self.problem = ""  # why nobody is authorized

    def __call__(self) -> AuthorizedKeys:
        """Never raises: a file that cannot be read authorizes nobody."""
        try:
            self.problem = ""
            return self._file()
        except OSError as error:
            self.problem = f"{self._file.path} cannot be read: {error.strerror}"
            self._log.error("{path}: no key is authorized: {reason}", path=self._file.path, reason=error.strerror)
            return AuthorizedKeys()

    def _read(self, text: bytes) -> AuthorizedKeys:
        keys = parse(text)
        if keys.warnings != self._warnings:
            for warning in keys.warnings:
                self._log.warn("{path}: {warning}", path=self._file.path, warning=warning)
        self._warnings = keys.warnings
        return keys


class RevokedFiles:
    """What is revoked now."""

    _log = Logger()

    def __init__(self, paths: Sequence[Path]) -> None:
        """Raises ConfigError for what cannot be used."""
        self._files: list[Watched[KRL]] = [Watched(path, parse_list, MAX_LIST) for path in paths]
        self._read()

    def __call__(self) -> Revocations:
        """Raises Revoked when that cannot be known: as sshd, which then lets nobody in by a key."""
        try:
            return self._read()
        except ConfigError as error:
            self._log.error("Nobody enters by a key: {error!s}", error=error)
            raise Revoked("what is revoked cannot be read") from None

    def _read(self) -> Revocations:
        lists, problems = [], []
        for file in self._files:
            try:
                lists.append(file())
            except OSError as error:
                problems.append(f"ssh.revoked_keys: {file.path} cannot be read: {error.strerror}")
            except BadList as error:
                problems.append(f"ssh.revoked_keys: {file.path}: {error}")
        if problems:
            raise ConfigError(problems)
        return Revocations(tuple(lists))


def authorities(path: Path | None) -> Authorities:
    """The CAs of a file. Raises ConfigError."""
    if path is None:
        return Authorities()
    try:
        with path.open("rb") as file:
            return Authorities.parse(file.read(MAX_TEXT))
    except OSError as error:
        raise ConfigError([f"ssh.trusted_user_ca_keys: {path} cannot be read: {error.strerror}"]) from None
    except ValueError as error:
        raise ConfigError([f"ssh.trusted_user_ca_keys: {path}: {error}"]) from None


class Credentials:
    """What a key or a certificate lets do at this moment; that somebody has it is proved elsewhere."""

    def __init__(self, config: SSHConfig) -> None:
        """Raises ConfigError for a file that cannot be used; authorized_keys may be missing or wrong."""
        self._keys = KeyFile(config.authorized_keys)
        self._keys()  # its warnings belong to the start
        self._authorities = authorities(config.trusted_user_ca_keys)
        self._revoked = RevokedFiles(config.revoked_keys)

    def problem(self) -> str:
        """Why nobody at all comes in by a key or a certificate just now; "" = somebody may."""
        try:
            self._revoked()
        except Revoked as error:
            return str(error)
        self._keys()
        return "" if self._authorities.blobs else self._keys.problem

    def read(self, blob: bytes, address: str, now: float, *, ruled: bool) -> Proof:
        """What this key or certificate opens that is shown from this address at this time; `ruled`: there are
        rules. Raises Refusal."""
        keys = self._keys()
        if not certifies(blob):
            lines = keys.find(blob)
            if lines:
                self._revoked().check_key(blob)
            return by_lines(blob, lines, address, now)
        trusted = self._authorities.blobs
        certificate = read_certificate(blob, lambda ca: ca in trusted or bool(keys.signed_by(ca)), address, now)
        self._revoked().check(certificate)
        ca = certificate.ca
        return by_authority(certificate, keys.signed_by(ca), address, now, trusted=ca in trusted, ruled=ruled)
