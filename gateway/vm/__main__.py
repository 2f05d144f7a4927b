"""The device's own process: `python -m gateway.vm --cid N --vhost SOCKET --path SOCKET`. Lives as long as
the other end of its stdin does, and takes its VMM with it."""

from __future__ import annotations

import argparse
import signal
import sys

from gateway.vm.device import FULL, HALF, Device


def main() -> int:
    """Run until stdin ends or SIGTERM comes."""
    parser = argparse.ArgumentParser(prog="python -m gateway.vm", description=__doc__)
    parser.add_argument("--cid", type=int, required=True, help="the guest's")
    parser.add_argument("--vhost", required=True, help="where the VMM connects (vhost-user)")
    parser.add_argument("--path", required=True, help="where programs of the host connect")
    parser.add_argument("--eof", choices=(FULL, HALF), default=FULL, help="as Firecracker, or as Cloud Hypervisor")
    options = parser.parse_args()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for whoever started us
    device = Device(options.cid, options.vhost, options.path, options.eof)
    print("ready", flush=True)
    device.run(sys.stdin.fileno())
    return 0


if __name__ == "__main__":
    sys.exit(main())
