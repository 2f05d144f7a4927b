"""What the paths of the site are, for programs: the OpenAPI document beside this file, as it is served."""

from __future__ import annotations

from importlib.resources import files

DOCUMENT = (files(__package__) / "openapi.json").read_bytes()
