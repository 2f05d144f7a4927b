"""Where a test of this room may keep recordings."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """It does not exist yet."""
    return tmp_path / "recordings"
