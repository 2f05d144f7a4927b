"""Copies as programs of their own, so that they can be killed: by the library and by WebSocket.

    python -m tests.whole.copier library to|from SOCKET LOCAL GUEST
    python -m tests.whole.copier web     to|from URL    LOCAL GUEST     (the token in $TOKEN)

Exit code 0 when everything was copied. By WebSocket one file goes in, a file or tree comes out.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import BinaryIO

PIECE = 1 << 20


def by_library(direction: str, socket: str, local: str, guest: str) -> None:
    from twisted.internet import asyncioreactor  # noqa: PLC0415

    asyncioreactor.install()
    from twisted.internet.defer import Deferred  # noqa: PLC0415
    from twisted.internet.task import react  # noqa: PLC0415

    from gateway.guest import MuxerDialer, copy_from_instance, copy_to_instance  # noqa: PLC0415

    async def copy() -> None:
        dialer = MuxerDialer(socket)
        if direction == "to":
            report = await copy_to_instance(dialer, local, guest, owners=True)
        else:
            report = await copy_from_instance(dialer, guest, local, owners=True)
        if report.problems:
            raise SystemExit(f"{len(report.problems)} problems, such as {report.problems[0]}")

    react(lambda _: Deferred.fromCoroutine(copy()))


async def by_web(direction: str, url: str, local: str, guest: str) -> None:
    import websockets  # noqa: PLC0415

    headers = {"Authorization": f"Bearer {os.environ['TOKEN']}"}
    async with websockets.connect(url, additional_headers=headers, max_size=None, compression=None) as socket:
        await socket.send(json.dumps({"direction": direction, "guest_path": guest, "mode": 0o640}))
        if direction == "to":
            with open(local, "rb") as file:  # noqa: ASYNC230 - nothing else runs here
                while data := file.read(PIECE):
                    await socket.send(data)
            await socket.send('{"type":"end"}')
            result = json.loads(await socket.recv())
            if not result["success"]:
                raise SystemExit(result["error"])
            return
        file_: BinaryIO | None = None
        about: dict[str, object] = {}
        place = Path(local)
        async for message in socket:
            if isinstance(message, bytes):
                assert file_ is not None
                file_.write(message)
                continue
            words = json.loads(message)
            if words["type"] == "header":
                place = Path(local, *words["path"].split("/")[1:])
                about = words
                if words.get("is_symlink"):
                    place.symlink_to(words["link_target"])
                elif words["is_dir"]:
                    place.mkdir(words["mode"])
                else:
                    file_ = place.open("wb")  # noqa: ASYNC230
            elif words["type"] == "error":
                raise SystemExit(words["message"])
            else:
                if file_ is not None:
                    os.fchmod(file_.fileno(), int(str(about["mode"])))
                    file_.close()
                    file_ = None
                    os.utime(place, (1, int(str(about["mtime"]))))
                if words["final"]:
                    return
    raise SystemExit("no final end")


if __name__ == "__main__":
    way, direction, address, local, guest = sys.argv[1:]
    if way == "library":
        by_library(direction, address, local, guest)
    else:
        asyncio.run(by_web(direction, address, local, guest))
