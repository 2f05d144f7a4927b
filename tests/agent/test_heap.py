"""Memory that large messages need again at once is not given back in between."""

from __future__ import annotations

import subprocess
import sys

# As a relay does: a message comes, a copy of it goes on, both are dropped. Some more lives for a while, as always.
MESSAGES = """
import resource, sys
from proto.heap import keep_warm
if sys.argv[1] == "warm":
    keep_warm()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for number in range(1000):
    message = b"%d" % number * 50_000
    onward = b"".join((b"head", message))
    del message, onward
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how: str) -> int:
    command = [sys.executable, "-c", MESSAGES, how]
    ran = subprocess.run(command, capture_output=True, check=True, text=True, env={"PYTHONMALLOC": "malloc"})
    return int(ran.stdout)


def test_a_thousand_messages_meet_the_same_memory() -> None:
    warm, cold = faults("warm"), faults("cold")
    print(f"page faults of 1,000 messages: {warm}, by glibc's defaults {cold}")
    assert warm < 1000
