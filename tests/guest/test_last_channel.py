"""The end of a process's last channel, which is the end of that channel alone."""

from __future__ import annotations

import subprocess
import sys

from tests.support.muxer import Muxer

ROUNDS = 4  # the first to crash without what is tested here was the third

# A guest that takes nothing any more is let go of when no other is there, as one that hangs is; then comes the next.
PROGRAM = """
import asyncio, gc, sys

from gateway.guest.channel import open_channel
from gateway.guest.relay import PumpHouse
from gateway.guest.vsock import MuxerDialer
from proto import guest_pb2 as pb

START = pb.ExecRequest(start=pb.ExecStart(command=["sleep", "60"])).SerializeToString()
STDIN = pb.ExecRequest(stdin=bytes(1 << 20)).SerializeToString()
WAKES = 10  # seconds after which gRPC's poller for sockets that take no more looks again; nothing tells that it did


async def let_go(path):
    house = PumpHouse()
    channel = await open_channel(MuxerDialer(path), house)
    call = channel.exec()
    await call.write(START)
    print("open", flush=True)
    sys.stdin.readline()
    try:
        while True:
            await asyncio.wait_for(call.write(STDIN), 1)
    except TimeoutError:
        print("stuck", flush=True)
    await channel.shut()
    house.close()


async def main(path, rounds):
    for _ in range(rounds):
        await let_go(path)
        gc.collect()
    await asyncio.sleep(WAKES + 1)
    print("lives", flush=True)


asyncio.run(main(sys.argv[1], int(sys.argv[2])))
"""


def test_a_process_survives_its_last_guest_that_took_nothing(muxer: Muxer) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(muxer.path), str(ROUNDS)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as program:
        assert program.stdin is not None
        assert program.stdout is not None
        for _ in range(ROUNDS):
            assert program.stdout.readline() == "open\n"
            muxer.freeze()
            program.stdin.write("\n")
            program.stdin.flush()
            assert program.stdout.readline() == "stuck\n"
            muxer.thaw()
        assert program.communicate(timeout=60) == ("lives\n", None)
    assert program.returncode == 0
