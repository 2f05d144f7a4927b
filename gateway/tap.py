"""The entry: options and file to configuration to the service.

The only reader of argv, environment and the configuration's files. Refuses to start, with sentences and exit code 1,
under another reactor than asyncio's, as a daemon, and with a configuration that is wrong.
"""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import ClassVar

from twisted.application.service import IService
from twisted.internet.asyncioreactor import AsyncioSelectorReactor
from twisted.python import usage

from gateway.config import Config, parse
from gateway.errors import ConfigError
from gateway.examine import examined
from gateway.files import Files, changeable_file, exposed_file
from gateway.notify import Manager
from gateway.service import Gateway
from gateway.workers import Worker
from proto.heap import keep_warm

HOW = "twistd --reactor=asyncio -n vmgate --config FILE"


class Options(usage.Options):
    """What follows `vmgate` on twistd's command line."""

    synopsis = "--config FILE"
    longdesc = "A gateway into microVMs. Start it as: " + HOW
    optParameters: ClassVar = [
        ["config", "c", "vmgate.toml", "the configuration, a TOML file"],
        ["worker", None, "", "what the gateway starts its workers with: inherited descriptors"],
    ]


def load(file: Path, credentials: str = "") -> Config:
    """The configuration in a file, of which a gateway can be made; relative paths in it are below its directory, and
    `credentials` is systemd's, "" = there is none. Raises ConfigError with every problem."""
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError([f"{file}: cannot be read: {error}"]) from error
    return read(file, credentials, text)


def read(file: Path, credentials: str, text: str) -> Config:
    """The configuration that this file has, or had when it was this text. Raises ConfigError."""
    files = Files(file.absolute().parent, Path(credentials) if credentials else None, exposed_file, changeable_file)
    return parse(text, str(file), files, Path.read_bytes, examined)


def makeService(options: Options) -> IService:
    """The gateway as a service. Exits with code 1 and a sentence when it cannot be one."""
    from twisted.internet import reactor  # noqa: PLC0415 (the entry, and twistd has installed it by now)

    if not isinstance(reactor, AsyncioSelectorReactor):
        raise SystemExit(f"vmgate: gRPC needs the asyncio reactor. Start it as: {HOW}")
    parent: dict[str, object] = options.parent or {}
    if not parent.get("nodaemon", True):
        raise SystemExit(f"vmgate: the asyncio loop does not survive twistd's fork. Start it with -n: {HOW}")
    keep_warm()
    file, credentials = Path(options["config"]), os.environ.get("CREDENTIALS_DIRECTORY", "")
    if options["worker"]:
        link, sockets = map(int, options["worker"].split(","))
        return Worker(partial(read, file, credentials), link, sockets, reactor)
    try:
        again = partial(load, file, credentials)
        return Gateway(again(), again, reactor, Manager.of(os.environ))
    except ConfigError as error:
        raise SystemExit("\n".join(["vmgate: the configuration cannot be used:", *error.problems])) from None
