"""What a key or a certificate opens, once it is proved: as whom, and by which options. Pure.

A plain key is granted by its lines in authorized_keys; a certificate by its CA, where that is trusted as a
whole, and by the CA's `cert-authority` lines (sshd(8), AUTHORIZED_KEYS FILE FORMAT).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from gateway.auth.certificates import Certificate, RefusedCertificate
from gateway.auth.keys import AuthorizedKey
from gateway.auth.options import Options
from gateway.model import Principal


@dataclass(frozen=True, slots=True)
class Grant:
    """One way in."""

    principal: Principal
    options: Options


@dataclass(frozen=True, slots=True)
class Proof:
    """What must have signed, and all that it opens."""

    key: bytes  # the blob of the plain key, that of a certificate too
    grants: tuple[Grant, ...]
    shown: str = ""  # what was shown, for the audit; "" where nothing is to say of it


def by_lines(blob: bytes, lines: Iterable[AuthorizedKey], address: str, now: float) -> Proof:
    """Of a plain key: its lines that hold from there at this time, in their order."""
    holding = (line for line in lines if line.options.admits(address, now))
    return Proof(blob, tuple(Grant(line.principal, line.options) for line in holding))


def by_authority(
    certificate: Certificate, lines: Iterable[AuthorizedKey], address: str, now: float, *, trusted: bool, ruled: bool
) -> Proof:
    """Of a certificate: by its CA, if that is `trusted` as a whole, then by that CA's lines. `ruled`: there are
    rules. Raises RefusedCertificate, for the last reason, where nothing grants anything."""
    grants = []
    refusal = RefusedCertificate("no line of its CA holds here and now")
    if trusted and certificate.names:
        grants.append(Grant(certificate.principal(ruled=ruled), certificate.options))
    elif trusted:
        refusal = RefusedCertificate("no principals")
    for line in lines:
        if line.options.admits(address, now):
            try:
                grants.append(_by_line(certificate, line.options, ruled))
            except RefusedCertificate as problem:
                refusal = problem
    if not grants:
        raise refusal
    return Proof(certificate.key, tuple(grants), f"certificate {certificate.serial} of {certificate.subject}")


def _by_line(certificate: Certificate, line: Options, ruled: bool) -> Grant:
    """With `principals=` the line says where, for who has one of them. Without, the certificate must name
    the instance too, unless it names none and so is valid for all (ssh-keygen(1), CERTIFICATES); for the rules
    its principals are groups. Raises RefusedCertificate."""
    names = frozenset(certificate.names)
    instances = line.instances
    if line.principals is not None:
        if not names & line.principals:
            raise RefusedCertificate("none of its principals is in its CA's line")
    elif names and not ruled:
        instances = names - {"*"} if "*" in instances else names & instances
    principal = replace(
        certificate.principal(ruled=ruled),
        instances=None if ruled and not instances else instances,
        permissions=line.permissions,
        until=min((end for end in (certificate.until, line.expires) if end is not None), default=None),
    )
    return Grant(principal, _both(certificate.options, line))


def _both(certificate: Options, line: Options) -> Options:
    """What both allow; what one of them forces, and not two different things. Raises RefusedCertificate."""
    if None not in (certificate.command, line.command) and certificate.command != line.command:
        raise RefusedCertificate("its force-command is another than its CA's line has")
    return replace(
        line,
        command=line.command if certificate.command is None else certificate.command,
        pty=certificate.pty and line.pty,
        port_forwarding=certificate.port_forwarding and line.port_forwarding,
        agent_forwarding=certificate.agent_forwarding and line.agent_forwarding,
    )
