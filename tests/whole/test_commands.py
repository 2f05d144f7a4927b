"""Each command of README and docs/ is run as it stands there, or says why it is not."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.agent import RealAgent
from tests.whole.conftest import Demo
from tests.whole.house import gateway

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

# Indented as commands are, and none: lines of files, of protocols, and what commands print.
OTHERS = (
    r"(cert-authority|instances=|Content-Security-Policy|Referrer-Policy|Cross-Origin)",
    r"(GET /instances|\[ssh\]|token_auth)",
    r"(allowed:|refused:|  [\w-]+: )",
)
# By how they begin: why they are not run here, and what is instead.
NOT_HERE = {
    "make demo": "tests/whole/test_demo.py runs it",
    "make test": "this is it",
    "pip install": "it downloads; tests/whole/test_twistd.py installs the wheel",
    "/opt/vmgate/bin/pip install": "the same",
    "python3 -m venv /opt": "it downloads; here /opt/vmgate is the environment of the tests",
    "adduser": "it changes the users of this machine",
    "systemctl": "systemd does not run here: tests/whole/test_unit.py has it look at the units",
    "twistd": "it would run for ever; every gateway of these tests is started so",
    "vmgate-agent": "it would run for ever; every agent of these tests is started so",
    "vmgate agent bundle": "tests/bundle makes one",
    "vmgate exec -it": "it wants a terminal: tests/whole/test_vmgate.py has one",
    "vmgate shell": "it wants a terminal and a user: tests/whole/test_vmgate.py has both",
    "vmgate kill": "tests/whole/test_admin.py has somebody to put out",
    "vmgate drain": "tests/whole/test_drain.py does it",
    "vmgate recordings": "tests/whole/test_recordings.py has recordings",
    "vmgate policy check": "tests/gateway/test_policy.py has that table, and this answer",
    "cloud-hypervisor": "it is no part of vmgate",
    "#!/bin/sh": "the script: tests/whole/test_tokens.py has ssh call it",
    "# SSH_ASKPASS": "the same",
    "from=": "the same",
    "cut -c": "the same",
}


def lines(page: Path) -> Iterator[str]:
    """What is indented by four, without code of other languages."""
    fenced = False
    for line in page.read_text().splitlines():
        if line.startswith("```"):
            fenced = not fenced
        elif not fenced and re.match(r" {4}\S", line):
            yield line[4:]


def commands(page: Path) -> list[str]:
    return [line.removeprefix("$ ") for line in lines(page) if not any(re.match(other, line) for other in OTHERS)]


def reason(command: str) -> str | None:
    return next((why for start, why in NOT_HERE.items() if command.startswith(start)), None)


RUN = [page for page in PAGES if any(not reason(one) for one in commands(page))]


def test_no_reason_is_left_over() -> None:
    found = [command for page in PAGES for command in commands(page)]
    assert len(found) > 40
    assert [start for start in NOT_HERE if not any(command.startswith(start) for command in found)] == []


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    state = tmp_path_factory.mktemp("c")
    empty = "mount -t tmpfs none /srv && mount -t tmpfs none /var/log && echo x >/var/log/file"
    apart = ("unshare", "--mount", "sh", "-c", f'{empty} && exec "$@"', "sh")
    lines = 'wait_for_agent = 0\n[admin]\nsocket = "admin.sock"\n'
    with (
        RealAgent(prefix=apart) as agent,
        gateway(state, {"alpha": f'agent_socket = "{agent.path}"'}, lines) as house,
    ):
        yield house


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has a /etc of its own to install in")
@pytest.mark.parametrize(
    "page", [page for page in PAGES if any(not reason(one) for one in commands(page))], ids=lambda page: page.name
)
def test_each_command_does_what_it_says(house: Demo, page: Path, tmp_path: Path) -> None:
    """In one shell for each page, as one who follows it; what it does to the machine's own directories is undone."""
    place = tmp_path / "place"
    place.mkdir()
    (place / "deploy").symlink_to(ROOT / "deploy")
    (place / "src").mkdir()
    (place / "src" / "file").write_text("x")
    (place / ".ssh").mkdir()
    (place / "spec").write_text("serial: 7\n")
    (place / "more").write_text("serial: 100-200\n")
    for name in ("vmgate.toml", "authorized_keys", "ssh_host_ed25519_key", "ssh_host_ed25519_key.pub", "secret"):
        (place / name).write_bytes((house.state / name).read_bytes())
        (place / name).chmod(0o600)
    (place / "secret").rename(place / "token.secret")
    text = (place / "vmgate.toml").read_text()
    (place / "vmgate.toml").write_text(text.replace('"secret"', '"token.secret"'))
    for name in ("ca", "host_ca"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(place / name)], check=True)
    script = [
        "set -eu",
        *(f"mkdir -p {tmp_path}/{name} {tmp_path}/{name}.work" for name in ("etc", "opt")),
        *(
            f"mount -t overlay o -o lowerdir=/{name},upperdir={tmp_path}/{name},workdir={tmp_path}/{name}.work /{name}"
            for name in ("etc", "opt")
        ),
        f"ln -sfn {Path(sys.executable).parents[1]} /opt/vmgate",
        "getent group vmgate >/dev/null || echo vmgate:x:64999: >>/etc/group",
        "mkdir -p /etc/systemd/system",
        *(command for command in commands(page) if not reason(command)),
    ]
    done = subprocess.run(
        ["unshare", "--mount", "bash", "-c", 'set -x; eval "$(cat)"'],
        input="\n".join(script).replace("127.0.0.1:9464", house.about["metrics_url"].split("/")[2]),
        cwd=place,
        env={
            **os.environ,
            "HOME": str(place),
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "VMGATE_URL": house.about["http_url"],
            "VMGATE_TOKEN": house.about["token"],
            "VMGATE_ADMIN": str(house.state / "admin.sock"),
        },
        capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
