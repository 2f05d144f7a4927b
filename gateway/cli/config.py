"""`vmgate config check`: whether the gateway would take a configuration. Starts nothing, asks no gateway."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from gateway.auth.keys import parse as parse_keys
from gateway.errors import ConfigError
from gateway.tap import load


def run(options: argparse.Namespace) -> int:
    """0 = it would, 1 = it would not, for each reason that is printed."""
    try:
        config = load(Path(options.file), options.credentials or os.environ.get("CREDENTIALS_DIRECTORY", ""))
    except ConfigError as error:
        print("\n".join(error.problems), file=sys.stderr)
        return 1
    if config.ssh is not None:
        _remark(config.ssh.authorized_keys)
    print(f"{options.file}: the gateway takes it")
    return 0


def _remark(file: Path) -> None:
    """What of a key file lets nobody in, though the rest of it does."""
    try:
        keys = parse_keys(file.read_bytes())
    except OSError as error:
        print(f"{file}: no key lets in: {error.strerror}", file=sys.stderr)
    else:
        for warning in keys.warnings:
            print(f"{file}: {warning}", file=sys.stderr)
