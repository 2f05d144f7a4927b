"""Whether a gateway can be made of a configuration, beyond what its text says: by the files that it names and by
what is installed. Changes nothing and makes nothing."""

from __future__ import annotations

import grp
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import Any

from twisted.internet.endpoints import serverFromString

from gateway.config import Config, SSHConfig
from gateway.config.sources import LibvirtSource
from gateway.errors import ConfigError
from gateway.ssh.credentials import RevokedFiles, authorities
from gateway.ssh.hostcert import host_certificates
from gateway.ssh.hostkey import HostKeys, host_key


def examined(config: Config) -> list[str]:
    """Every problem, each with the key that it is about first."""
    return [*_files(config.ssh), *_endpoints(config), *_installed(config), *_groups(config)]


def _files(config: SSHConfig | None) -> Iterator[str]:
    if config is None:
        return
    keys = []
    for path in config.host_keys:
        if path == config.host_keys[0] and not path.exists():
            continue  # it is made at the first start
        try:
            keys.append(host_key(path, create=False))
        except ConfigError as error:
            yield from error.problems
    looks: tuple[Callable[[], object], ...] = (
        lambda: host_certificates(config.host_certificates, HostKeys(keys)),
        lambda: authorities(config.trusted_user_ca_keys),
        lambda: RevokedFiles(config.revoked_keys),
    )
    for look in looks:
        try:
            look()
        except ConfigError as error:
            yield from error.problems


def _endpoints(config: Config) -> Iterator[str]:
    fronts = {"ssh.listen": config.ssh, "http.listen": config.http, "metrics.listen": config.metrics}
    nowhere: Any = object()  # nothing listens yet, so no reactor is needed
    for key, front in fronts.items():
        for description in front.listen if front else ():
            try:
                serverFromString(nowhere, description)
            except LookupError:
                continue  # a socket of systemd's, which is there when the gateway starts
            except Exception as error:
                yield f"{key}: {description!r} is not an endpoint, such as tcp:2222 or unix:/run/vmgate.sock: {error}"


def _installed(config: Config) -> Iterator[str]:
    if config.traces and not find_spec("opentelemetry"):
        yield "traces: this needs what `pip install 'vmgate[traces]'` brings"
    if any(isinstance(source, LibvirtSource) for source in config.sources) and not find_spec("libvirt"):
        yield "sources: libvirt needs libvirt-python: pip install 'vmgate[libvirt]'"


def _groups(config: Config) -> Iterator[str]:
    if config.admin and config.admin.group:
        try:
            grp.getgrnam(config.admin.group)
        except KeyError:
            yield f"admin.group: there is no group {config.admin.group!r}"
