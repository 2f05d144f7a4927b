"""The options of authorized_keys: what each means, and what ssh makes of them."""

from __future__ import annotations

from datetime import datetime

import pytest
import pytest_twisted
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.auth.options import Options, RefusedLine, among, parse_options
from gateway.model import PortPattern
from tests.ssh.house import House, new_identity
from tests.ssh.test_certificates import certify


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("", Options()),
        ("restrict", Options(pty=False, port_forwarding=False, agent_forwarding=False)),
        ("restrict,pty", Options(port_forwarding=False, agent_forwarding=False)),
        ("pty,restrict", Options(pty=False, port_forwarding=False, agent_forwarding=False)),
        ("no-pty", Options(pty=False)),
        ("No-Agent-Forwarding,no-X11-forwarding,no-user-rc", Options(agent_forwarding=False)),
        ("no-port-forwarding,port-forwarding", Options()),
        (r'command="echo \"a,b\" $X"', Options(command='echo "a,b" $X')),
        ('environment="A=b",no-pty,environment="A="', Options(environment=(("A", "b"), ("A", "")), pty=False)),
        ('cert-authority,principals="a, b"', Options(cert_authority=True, principals=frozenset({"a", "b"}))),
        ('expiry-time="20270102030405Z"', Options(expires=1798859045.0)),
        ('expiry-time="202701020304Z"', Options(expires=1798859040.0)),
        ('expiry-time="20270102Z"', Options(expires=1798848000.0)),
        ('expiry-time="20270102"', Options(expires=datetime(2027, 1, 2).timestamp())),
        ('expiry-time="20280101Z",expiry-time="20270102Z"', Options(expires=1798848000.0)),
        ('from="10.0.0.0/8,!10.1.*"', Options(sources=("10.0.0.0/8", "!10.1.*"))),
        (
            'permitopen="localhost:80",permitopen="[::1]:*",permitlisten="8080"',
            Options(
                permit_open=(PortPattern("localhost", 80), PortPattern("::1", None)),
                permit_listen=(PortPattern("*", 8080),),
            ),
        ),
    ],
)
def test_options_mean_what_sshd_says(text: str, options: Options) -> None:
    assert parse_options(text) == options


@pytest.mark.parametrize(
    ("patterns", "address", "fits"),
    [
        (("10.0.0.0/8",), "10.9.9.9", True),
        (("10.0.0.0/8", "!10.9.0.0/16"), "10.9.9.9", False),
        (("!10.9.0.0/16", "*"), "10.9.9.9", False),
        (("!10.9.0.0/16",), "192.0.2.1", False),
        (("192.0.2.?",), "192.0.2.1", True),
        (("192.0.2.?",), "192.0.2.10", False),
        (("2001:db8::/32",), "2001:db8::5", True),
        (("2001:db8::/32", "::1"), "10.0.0.1", False),
        (("0.0.0.0/0",), "UNKNOWN", False),
    ],
)
def test_from_takes_networks_and_patterns_and_none_with_a_mark(
    patterns: tuple[str, ...], address: str, fits: bool
) -> None:
    assert among(patterns, address) is fits


def test_an_ipv4_client_of_an_ipv6_socket_is_known_by_its_address() -> None:
    assert parse_options('from="192.0.2.1"').admits("::ffff:192.0.2.1", 0)


@settings(deadline=None)
@given(
    st.one_of(
        st.text(max_size=200),
        st.lists(
            st.sampled_from(["from=", "command=", "expiry-time=", "restrict", "no-", '"', "\\", ",", "1", "pty"])
        ).map("".join),
    )
)
def test_any_text_is_options_or_a_refused_line(text: str) -> None:
    try:
        assert isinstance(parse_options(text), Options)
    except RefusedLine as problem:
        assert str(problem)


def authorize(house: House, options: str) -> None:
    house.authorize(f'instances="alpha",{options} {(house.place / "identity.pub").read_text().strip()}')


async def leads(house: House, place: str) -> bool:
    """Whether -W to there was let through to the guest."""
    before = len(house.refused())
    await house.ssh("-W", place, "unused")
    return "Forwarding to there is not allowed here." not in [refused.reason for refused in house.refused()[before:]]


@pytest_twisted.ensureDeferred
async def test_a_forced_command_runs_whatever_was_asked_for(house: House) -> None:
    authorize(house, 'command="echo forced; exit 4"')
    done = await house.ssh("echo asked")
    assert (done.out, done.code) == (b"forced\n", 4)
    assert house.alpha.requests[-1].env["SSH_ORIGINAL_COMMAND"] == "echo asked"
    for asked in (["-s", "sftp"], ["scp -t /tmp"]):
        assert (await house.ssh(*asked)).out == b"forced\n"
    assert (await house.run(["ssh", *house.options(), "-T", "alpha@127.0.0.1"])).out == b"forced\n"
    assert "SSH_ORIGINAL_COMMAND" not in house.alpha.requests[-1].env
    assert {request.line for request in house.alpha.requests} == {b"echo forced; exit 4"}


@pytest_twisted.ensureDeferred
async def test_a_key_for_sftp_alone_has_that(house: House) -> None:
    authorize(house, 'restrict,command="internal-sftp"')
    await house.ssh("exit 0")
    assert house.alpha.requests[-1].subsystem == "sftp"


@pytest_twisted.ensureDeferred
async def test_a_restricted_key_has_no_terminal_no_forward_and_no_agent(house: House) -> None:
    authorize(house, "restrict")
    assert (await house.ssh("exit 3")).code == 3
    assert b"PTY allocation request failed" in (await house.ssh("-tt", "exit 3")).err
    assert not await leads(house, "localhost:80")
    done = await house.ssh("-o", "ExitOnForwardFailure=yes", "-R", "0:localhost:80", "exit 0")
    assert (done.code, b"remote port forwarding failed" in done.err) == (255, True)


@pytest_twisted.ensureDeferred
async def test_permitopen_narrows_what_the_configuration_permits(house: House) -> None:
    authorize(house, 'permitopen="localhost:81"')
    assert not await leads(house, "localhost:80")
    assert await leads(house, "localhost:81")
    house.reconfigure(permit_open=(PortPattern("localhost", 80),))
    assert not await leads(house, "localhost:81")


@pytest.mark.parametrize(
    ("options", "enters"),
    [
        ('from="127.0.0.0/8"', True),
        ('from="127.0.0.0/8,!127.0.0.1"', False),
        ('from="192.0.2.*"', False),
        ('expiry-time="20010101Z"', False),
        ('expiry-time="20991231Z"', True),
    ],
)
@pytest_twisted.ensureDeferred
async def test_a_key_is_good_where_and_until_its_line_says(house: House, options: str, enters: bool) -> None:
    authorize(house, options)
    done = await house.ssh("exit 0")
    assert (done.code == 0, b"Permission denied" in done.err) == (enters, not enters)


@pytest_twisted.ensureDeferred
async def test_the_configurations_command_is_forced_over_that_of_a_key(house: House) -> None:
    house.reconfigure(force_command="echo configured")
    assert (await house.ssh("echo asked")).out == b"configured\n"
    house.authorize(f'instances="alpha",command="echo forced" {(house.place / "identity.pub").read_text()}')
    assert (await house.ssh("echo asked")).out == b"configured\n"
    assert (await house.run(["sftp", *house.options("-b", "/dev/null"), "alpha@127.0.0.1"])).code != 0


@pytest_twisted.ensureDeferred
async def test_a_keys_environment_is_set_as_far_as_the_configuration_permits(house: House) -> None:
    line = 'instances="alpha",environment="SITE=berlin",environment="SITE=rome",environment="LD_PRELOAD=x.so"'
    house.authorize(f'{line},environment="OTHER=1" {(house.place / "identity.pub").read_text()}')
    assert b"SITE" not in (await house.ssh("env")).out
    house.reconfigure(permit_user_environment=("SITE", "LD_*"))
    said = (await house.ssh("env")).out.decode().split()
    assert "SITE=berlin" in said
    assert not [word for word in said if word.startswith(("LD_PRELOAD", "OTHER"))]
    house.reconfigure(set_env={"SITE": "the operator's"})
    assert "SITE=the" in (await house.ssh("env")).out.decode().split()


ED25519, CERTIFIED = "ssh-ed25519", "ssh-ed25519-cert-v01@openssh.com"


@pytest.mark.parametrize(
    ("accepted", "enter"),
    [((ED25519, CERTIFIED), {"identity", "user"}), ((CERTIFIED,), {"user"}), ((ED25519,), {"identity"})],
)
@pytest_twisted.ensureDeferred
async def test_algorithms_that_are_not_accepted_let_nobody_in(
    house: House, accepted: tuple[str, ...], enter: set[str]
) -> None:
    new_identity(house.place / "ca")
    certify(house.place)
    house.reconfigure(trusted_user_ca_keys=house.place / "ca.pub", pubkey_accepted_algorithms=accepted)
    for identity in ("identity", "user"):
        assert ((await house.ssh("exit 0", identity=identity)).code == 0) == (identity in enter)
    if len(enter) == 1:
        assert "is not accepted" in house.refused()[-1].reason


@pytest_twisted.ensureDeferred
async def test_clients_are_told_which_signatures_are_accepted(house: House) -> None:
    house.reconfigure(pubkey_accepted_algorithms=("rsa-sha2-512", CERTIFIED))
    assert house.front._terms.signatures == (b"ssh-ed25519", b"rsa-sha2-512")
    line = new_identity(house.place / "rsa", "rsa", "-b", "2048")
    house.authorize(f'instances="alpha" {line}')
    assert (await house.ssh("exit 0", identity="rsa")).code == 0
