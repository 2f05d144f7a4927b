"""A gateway that is reloaded all the time loses nobody."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import time
from pathlib import Path

import asyncssh

from tests.support.agent import RealAgent
from tests.support.counts import count
from tests.web.house import on_loop
from tests.whole.conftest import Demo
from tests.whole.house import gateway

RELOADS = count(1000, 40)
IDLE, BUSY = count(200, 24), count(20, 4)
PIECE = 32 << 10  # bytes

ADMIN = 'wait_for_agent = 0\n[admin]\nsocket = "admin.sock"\n'


def reload(house: Demo) -> dict[str, object]:
    """As `vmgate reload` does it."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(100)
        client.connect(str(house.state / "admin.sock"))
        client.sendall(b'{"command": "reload"}\n')
        with client.makefile("rb") as file:
            answer: dict[str, object] = json.loads(file.readline())
    return answer


@on_loop
async def test_no_session_is_lost_by_reloads_good_and_bad(tmp_path: Path) -> None:
    """Each changes something: a banner, another instance, other limits; each tenth file is wrong."""
    with RealAgent() as agent, gateway(tmp_path, {"alpha": f'agent_socket = "{agent.path}"'}, ADMIN) as house:
        connections = [await enter(house) for _ in range(IDLE + BUSY)]
        processes = [await one.create_process("cat", encoding=None) for one in connections]
        idle, busy = processes[:IDLE], processes[IDLE:]
        over = asyncio.Event()
        moving = [asyncio.create_task(move(process, over)) for process in busy]
        file = house.state / "vmgate.toml"
        good = file.read_text()
        began = time.monotonic()
        taken = 0
        for number in range(RELOADS):
            (house.state / "banner").write_text(f"banner {number}")
            more = f'[[instances]]\nid = "other-{number}"\nagent_socket = "gone.sock"\n'
            wrong = "nonsense = 1\n" if number % 10 == 9 else ""
            text = good.replace("[ssh]", f'[ssh]\nbanner = "banner"\nmax_channels = {number + 1}')
            file.write_text(wrong + text + more)
            answer = await asyncio.to_thread(reload, house)
            assert answer["ok"] is not bool(wrong), answer
            taken += bool(answer["ok"])
        seconds = time.monotonic() - began
        over.set()
        moved = sum(await asyncio.gather(*moving))
        for number, process in enumerate(idle):
            process.stdin.write(b"%d\n" % number)
            assert await process.stdout.readline() == b"%d\n" % number
        for process in processes:
            process.stdin.write_eof()
            assert (await process.wait()).exit_status == 0
        print(
            f"{RELOADS} reloads ({taken} taken) in {seconds:.1f} s: {IDLE} idle sessions and {BUSY} that moved "
            f"{moved / 2**20:.0f} MiB there and back are all alive"
        )
        assert moved >= BUSY * PIECE
        for one in connections:
            one.close()
        await asyncio.gather(*(one.wait_closed() for one in connections))


async def enter(house: Demo) -> asyncssh.SSHClientConnection:
    return await asyncssh.connect(
        house.about["ssh_host"], house.about["ssh_port"], username="alpha", client_keys=[house.about["identity_file"]],
        known_hosts=None, agent_path=None, config=None, login_timeout=100,
    )  # fmt: skip


async def move(process: asyncssh.SSHClientProcess[bytes], over: asyncio.Event) -> int:
    """Send pieces and get each back as it was; gives how many bytes."""
    moved = 0
    while not over.is_set():
        piece = os.urandom(PIECE)
        process.stdin.write(piece)
        assert await process.stdout.readexactly(PIECE) == piece
        moved += PIECE
        await asyncio.sleep(0)
    return moved
