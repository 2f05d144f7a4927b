"""The web terminal: the files of `page/` as they lie in the package, and the headers that fence them in.

They are read once, at the first import; no path of a request reaches the file system. Who the reader is, is
the business of the paths that the page's own scripts call: the page itself is for anybody.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from importlib.resources import files
from importlib.resources.abc import Traversable

from twisted.web import http
from twisted.web.server import Request

KINDS = {
    "html": b"text/html; charset=utf-8",
    "css": b"text/css; charset=utf-8",
    "js": b"text/javascript; charset=utf-8",
    "mjs": b"text/javascript; charset=utf-8",
    "svg": b"image/svg+xml",
    "": b"text/plain; charset=utf-8",  # licences and the like
}

# Everything comes from here, talks to here, and stands in no frame. Nothing is inline: styles.js says how xterm.js
# lives with that.
POLICY = (
    b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    b"base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
FENCES = {
    b"content-security-policy": POLICY,
    b"cross-origin-opener-policy": b"same-origin",
    b"cross-origin-resource-policy": b"same-origin",
    b"referrer-policy": b"no-referrer",
    b"x-content-type-options": b"nosniff",
    b"cache-control": b"no-cache",  # kept, but asked for anew each time: by its ETag
}


@dataclass(frozen=True, slots=True)
class File:
    """One of them, as it is answered."""

    body: bytes
    kind: bytes
    etag: bytes


def page_file(request: Request, file: File) -> bytes:
    """Prepare the response and give its body, as a resource's render does."""
    for name, value in FENCES.items():
        request.setHeader(name, value)
    request.setHeader(b"content-type", file.kind)
    if request.setETag(file.etag) is http.CACHED:
        return b""
    request.setHeader(b"content-length", b"%d" % len(file.body))
    return file.body


def _read(directory: Traversable, above: str = "") -> Iterator[tuple[str, File]]:
    for found in directory.iterdir():
        if found.is_dir():
            yield from _read(found, f"{above}{found.name}/")
            continue
        body = found.read_bytes()
        _, _, ending = found.name.rpartition(".")
        etag = b'"%s"' % sha256(body).hexdigest()[:32].encode()
        yield above + found.name, File(body, KINDS.get(ending, KINDS[""]), etag)


# By their paths below `page/`.
FILES: Mapping[str, File] = dict(_read(files(__package__) / "page"))
