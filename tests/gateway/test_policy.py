"""The table of rules: who may do what where, row by row, and how it is read and explained."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from gateway.cli import main
from gateway.cli.parser import RIGHTS
from gateway.config import parse
from gateway.config.policy import Policy, Right
from gateway.errors import ConfigError
from gateway.model import EVERYTHING, Instance, Operation, Principal, PrivatePlace, TCPPlace, UnixAddress
from gateway.policy import Asked, decide, host_of

TABLE = """
[ssh]

[[policy.rules]]
name = "nobody tunnels out of the vault"
instances = ["vault"]
deny = ["forward", "agent"]

[[policy.rules]]
name = "operators"
groups = ["ops", "admins"]
allow = ["*"]
sources = ["10.0.0.0/8", "2001:db8::/32"]

[[policy.rules]]
name = "storage"
claims = { team = "storage", level = "2" }
instances = ["db-*"]
allow = ["exec", "shell", "pty"]
users = ["postgres", "backup-*"]
sessions = 2
idle = 600
total = 3600

[[policy.rules]]
name = "readers"
subjects = ["*@audit.example"]
labels = { env = "prod" }
allow = ["read"]

[[policy.rules]]
name = "no typing in production"
labels = { env = "prod" }
deny = ["pty", "shell"]

[[policy.rules]]
name = "anna"
subjects = ["anna"]
instances = ["i-web", "db-1"]
allow = ["exec", "shell", "pty", "read", "write", "agent"]
users = [""]

[[policy.rules]]
name = "everybody"
instances = ["play*"]
allow = ["shell", "pty", "write", "read"]

[[instances]]
id = "i-vault"
name = "vault"
agent_socket = "/s"
labels = { env = "prod" }

[[instances]]
id = "i-web"
name = "web"
agent_socket = "/s"
labels = { env = "prod", zone = "a" }

[[instances]]
id = "i-db"
name = "db-1"
agent_socket = "/s"

[[instances]]
id = "i-play"
name = "playground"
agent_socket = "/s"
"""


def read(text: str) -> Policy:
    return parse(text, "vmgate.toml", Path("/etc"), lambda _: b"").policy


POLICY = read(TABLE)
PLACES = {i.name: i for i in parse(TABLE, "t", Path("/etc"), lambda _: b"").instances}
WHO = {
    "olga": Principal("olga", "token", None, groups=frozenset({"ops"})),
    "stan": Principal("stan", "token", None, claims={"team": ["network", "storage"], "level": "2"}),
    "sven": Principal("sven", "token", None, claims={"team": "storage", "level": 2}),
    "rita": Principal("rita@audit.example", "publickey", None),
    "anna": Principal("anna", "publickey", None),
    "carl": Principal("carl", "publickey", None),
}
EXEC, SHELL, SFTP, UP, DOWN = (
    Operation.EXEC, Operation.SHELL, Operation.SFTP, Operation.UPLOAD, Operation.DOWNLOAD,
)  # fmt: skip
STAT, LIST, FORWARD, LISTEN = Operation.STAT, Operation.LIST, Operation.FORWARD, Operation.LISTEN
ALL = frozenset(Operation) - {Operation.REPLAY}  # what `*` allows
FILES = {SFTP, UP, DOWN, STAT}
# Who, where: what of all operations is allowed, whatever the terminal, the user and the address.
ROWS: dict[tuple[str, str], frozenset[Operation] | set[Operation]] = {
    ("olga", "vault"): ALL - {FORWARD, LISTEN},
    ("olga", "web"): ALL,
    ("olga", "db-1"): ALL,
    ("olga", "playground"): ALL,
    ("stan", "vault"): set(),
    ("stan", "web"): set(),
    ("stan", "db-1"): {EXEC, SHELL, LIST},
    ("stan", "playground"): {SHELL, LIST} | FILES,
    ("sven", "vault"): set(),
    ("sven", "web"): set(),
    ("sven", "db-1"): set(),
    ("sven", "playground"): {SHELL, LIST} | FILES,
    ("rita", "vault"): {SFTP, DOWN, STAT, LIST},
    ("rita", "web"): {SFTP, DOWN, STAT, LIST},
    ("rita", "db-1"): set(),
    ("rita", "playground"): {SHELL, LIST} | FILES,
    ("anna", "vault"): set(),
    ("anna", "web"): {EXEC, LIST} | FILES,
    ("anna", "db-1"): {EXEC, SHELL, LIST} | FILES,
    ("anna", "playground"): {SHELL, LIST} | FILES,
    ("carl", "vault"): set(),
    ("carl", "web"): set(),
    ("carl", "db-1"): set(),
    ("carl", "playground"): {SHELL, LIST} | FILES,
}


@pytest.mark.parametrize(("who", "where", "operation"), [(*pair, op) for pair in ROWS for op in Operation])
def test_the_table_allows_what_it_says_and_nothing_else(who: str, where: str, operation: Operation) -> None:
    decision = decide(WHO[who], operation, PLACES[where], Asked(), POLICY)
    assert decision.allowed is (operation in ROWS[who, where]), decision.reason
    assert decision.reason


def test_the_table_has_rows_enough() -> None:
    assert len(ROWS) * len(Operation) >= 150
    assert set(ROWS) == set(itertools.product(WHO, PLACES))


INSIDE, OUTSIDE = "10.1.2.3:4000", "192.0.2.1:4000"


@pytest.mark.parametrize(
    ("who", "where", "operation", "asked", "reason"),
    [
        ("olga", "web", EXEC, Asked(source=INSIDE), ""),
        ("olga", "web", EXEC, Asked(source="[2001:db8::7]:4000"), ""),
        ("olga", "web", EXEC, Asked(source="[::ffff:10.1.2.3]:4000"), ""),
        ("olga", "web", EXEC, Asked(source="10.1.2.3"), ""),
        ("olga", "web", EXEC, Asked(source="2001:db8::7"), ""),
        ("olga", "web", EXEC, Asked(source=OUTSIDE), "operators allows exec, but not from this address"),
        ("olga", "web", EXEC, Asked(source="[2001:db9::7]:4000"), "operators allows exec, but not from this address"),
        ("olga", "web", EXEC, Asked(source="unix"), "operators allows exec, but not from this address"),
        ("olga", "web", EXEC, Asked(source="UNKNOWN:65535"), "operators allows exec, but not from this address"),
        # The first rule that fits decides, its limits too: "everybody" would have let her in from there.
        ("olga", "playground", SHELL, Asked(source=OUTSIDE), "operators allows shell, but not from this address"),
        ("olga", "vault", FORWARD, Asked(), "nobody tunnels out of the vault denies forward"),
        ("olga", "vault", LISTEN, Asked(place=PrivatePlace()), "nobody tunnels out of the vault denies agent"),
        ("olga", "web", LISTEN, Asked(place=PrivatePlace()), ""),
        ("anna", "db-1", LISTEN, Asked(place=PrivatePlace()), ""),
        ("anna", "db-1", FORWARD, Asked(place=PrivatePlace()), ""),
        ("anna", "db-1", LISTEN, Asked(place=TCPPlace("", 0)), "no rule allows forward"),
        ("anna", "db-1", EXEC, Asked(user=""), ""),
        ("anna", "db-1", EXEC, Asked(user="root"), "anna allows exec, but not as this guest user"),
        ("anna", "web", EXEC, Asked(terminal=True), "no typing in production denies pty"),
        ("anna", "db-1", EXEC, Asked(terminal=True), ""),
        ("stan", "db-1", SHELL, Asked(terminal=True, user="postgres"), ""),
        ("stan", "db-1", SHELL, Asked(user="backup-7"), ""),
        ("stan", "db-1", SHELL, Asked(user="Postgres"), "storage allows shell, but not as this guest user"),
        ("stan", "db-1", SHELL, Asked(user=""), "storage allows shell, but not as this guest user"),
        ("carl", "playground", EXEC, Asked(), "no rule allows exec"),
        ("carl", "vault", SHELL, Asked(), "no typing in production denies shell"),
    ],
)
def test_a_rules_terms_are_kept(who: str, where: str, operation: Operation, asked: Asked, reason: str) -> None:
    decision = decide(WHO[who], operation, PLACES[where], asked, POLICY)
    assert decision.allowed is (not reason), decision.reason
    if reason:
        assert decision.reason == reason


def test_who_may_only_read_has_sftp_that_changes_nothing() -> None:
    assert decide(WHO["rita"], SFTP, PLACES["web"], Asked(), POLICY).read_only
    assert not decide(WHO["anna"], SFTP, PLACES["web"], Asked(), POLICY).read_only


def test_a_credential_narrows_what_the_rules_allow() -> None:
    only_read = Principal("anna", "publickey", None, permissions=frozenset({"files:read"}))
    assert decide(only_read, SFTP, PLACES["web"], Asked(), POLICY).read_only
    assert not decide(only_read, EXEC, PLACES["web"], Asked(), POLICY).allowed
    only_web = Principal("anna", "publickey", frozenset({"web"}))
    assert decide(only_web, EXEC, PLACES["web"], Asked(), POLICY).allowed
    assert not decide(only_web, EXEC, PLACES["db-1"], Asked(), POLICY).allowed


@pytest.mark.parametrize("operation", list(Operation))
def test_without_a_table_the_credential_says_where_it_enters(operation: Operation) -> None:
    web = PLACES["web"]
    for instances, enters in ({"web"}, True), ({"i-web"}, True), ({"*"}, True), ({"vault"}, False), (set(), False):
        principal = Principal("anna", "token", frozenset(instances), EVERYTHING)
        assert decide(principal, operation, web).allowed is (enters and operation in ALL)
    assert not decide(Principal("anna", "publickey", None), operation, web).allowed


def test_what_others_did_is_seen_by_a_rule_of_that_word_alone() -> None:
    rules = read(
        '[ssh]\n[[policy.rules]]\nsubjects = ["anna"]\nallow = ["replay"]\n'
        '[[policy.rules]]\nsubjects = ["ben"]\nallow = ["*", "replay"]\n'
        '[[policy.rules]]\nsubjects = ["eve"]\ndeny = ["*"]\n[[policy.rules]]\nallow = ["*"]\n'
        '[[policy.rules]]\nallow = ["replay"]\nsubjects = ["eve"]\n'
    )
    asked = (Operation.REPLAY, EXEC, LIST)

    def seen(who: str) -> set[Operation]:
        principal = Principal(who, "token", frozenset({"*"}))
        return {operation for operation in asked if decide(principal, operation, PLACES["web"], Asked(), rules).allowed}

    assert seen("anna") == seen("ben") == set(asked)
    assert (seen("carl"), seen("eve")) == ({EXEC, LIST}, set())
    reader = Principal("ben", "token", frozenset({"*"}), frozenset({"files:read"}))
    assert not decide(reader, Operation.REPLAY, PLACES["web"], Asked(), rules).allowed


def test_a_table_without_rules_allows_nobody_anything() -> None:
    nothing = read("[ssh]\n[policy]\nrules = []\n")
    everywhere = Principal("anna", "token", frozenset({"*"}))
    assert not any(decide(everywhere, op, PLACES["web"], Asked(), nothing).allowed for op in Operation)


def test_the_limits_of_the_rule_that_decides_hold() -> None:
    limits = decide(WHO["stan"], SHELL, PLACES["db-1"], Asked(), POLICY).limits
    assert (limits.sessions, limits.idle, limits.total) == (2, 600, 3600)


LOOK_ALIKES = [
    "WEB", "Web", "web ", " web", "we", "web1", "web\0", "wеb", "ｗｅｂ", "web/", "./web", "../web", "web/../web",
    "web\n", "w*", "*", "we?", "[w]eb", "i-we", "I-WEB", "web\u200b", "w\u0065\u0301b",
]  # fmt: skip


@pytest.mark.parametrize("name", LOOK_ALIKES)
def test_an_instance_that_looks_alike_is_another(name: str) -> None:
    other = Instance(id="i-other", name=name, address=UnixAddress("/s"))
    only_web = Principal("anna", "publickey", frozenset({"web"}))
    assert not decide(only_web, EXEC, other, Asked()).allowed
    assert not decide(WHO["anna"], EXEC, other, Asked(), POLICY).allowed


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        ("", "vmgate.toml:2: policy.rules: give exactly one of allow and deny"),
        ('allow = ["exec"]\ndeny = ["pty"]', "give exactly one of allow and deny"),
        ('allow = ["exce"]', "vmgate.toml:3: policy.rules.allow: 'exce' is not known; known: exec, shell, pty"),
        ("allow = []", "name at least one, or leave it out"),
        ('allow = "*"\nsubjects = []', "name at least one, or leave it out"),
        ('allow = "*"\nsources = ["10.0.0.1/8"]', "'10.0.0.1/8' is no address or network"),
        ('allow = "*"\nsubject = "anna"', "no such key; known here: allow"),
        ('allow = "*"\nidle = -1', "a number from 0"),
        ('allow = "*"\nlabels = { env = 1 }', "a text is needed"),
        ('deny = "*"\nusers = ["root"]', "say how something is allowed"),
        ('allow = "*"\nname = "x"\n[[policy.rules]]\nallow = "*"\nname = "x"', "'x' is the name of two rules"),
    ],
)
def test_a_rule_that_says_nothing_clear_is_a_problem(lines: str, problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(f"[ssh]\n[[policy.rules]]\n{lines}\n")
    assert problem in str(caught.value)


@pytest.mark.parametrize(
    ("peer", "host"),
    [
        ("192.0.2.1", "192.0.2.1"), ("192.0.2.1:22", "192.0.2.1"), ("[2001:db8::1]:22", "2001:db8::1"),
        ("2001:db8::1", "2001:db8::1"), ("unix", "unix"),
    ],
)  # fmt: skip
def test_a_peer_has_a_host(peer: str, host: str) -> None:
    assert host_of(peer) == host


# vmgate policy check.


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "vmgate.toml"
    path.write_text(TABLE)
    return path


def check(file: Path, subject: str, instance: str, op: str, *more: str) -> int:
    words = ["--config", str(file), "--subject", subject, "--instance", instance, "--op", op]
    return main(["policy", "check", *words, *more])


def test_check_explains_what_is_allowed(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    claims = ("--claim", "team=storage", "--claim", "level=2")
    assert check(file, "stan", "db-1", "shell", *claims, "--user", "postgres") == 0
    assert capsys.readouterr().out == (
        "  nobody tunnels out of the vault: says nothing of shell\n"
        "  operators: is about other groups\n"
        "  storage: allows it; as 'postgres', 'backup-*'; at most 2 sessions; idle for 600 s; 3600 s in all\n"
        "allowed: storage allows shell\n"
    )


def test_check_explains_what_is_refused(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check(file, "olga", "i-web", "exec", "--group", "ops", "--source", "192.0.2.1") == 1
    assert capsys.readouterr().out.endswith("refused: operators allows exec, but not from this address\n")
    assert check(file, "carl", "web", "attach") == 1
    assert capsys.readouterr().out.endswith("  everybody: says nothing of attach\nrefused: no rule allows attach\n")


@pytest.mark.parametrize(("where", "op"), list(itertools.product(PLACES, Right)))
def test_check_agrees_with_the_gate(file: Path, where: str, op: Right) -> None:
    operations = {Right.EXEC: EXEC, Right.SHELL: SHELL, Right.READ: DOWN, Right.WRITE: UP, Right.FORWARD: FORWARD}
    if op in operations:
        allowed = operations[op] in ROWS["anna", where]
        assert check(file, "anna", where, op.value) == (0 if allowed else 1)


def test_check_without_a_table_asks_the_keys(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file.write_text(TABLE[: TABLE.index("[[policy")] + TABLE[TABLE.index("[[instances") :])
    key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJdD7y3aLq454yWBdwLWbieU1ebz9/cu7/QEXn9OIeZJ"
    file.with_name("authorized_keys").write_text(f'instances="web" {key} anna\n')
    assert check(file, "anna", "web", "exec") == 0
    assert check(file, "anna", "vault", "exec") == 1
    assert capsys.readouterr().out.endswith("refused: 1 keys of anna, none names the instance\n")


def test_check_tells_what_it_cannot_use(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check(file, "anna", "nowhere", "exec") == 2
    assert "there is no instance 'nowhere'; there are vault, web, db-1, playground" in capsys.readouterr().err
    file.write_text("[ssh]\n[[policy.rules]]\n")
    assert check(file, "anna", "web", "exec") == 2
    assert "give exactly one of allow and deny" in capsys.readouterr().err


def test_the_command_knows_every_right() -> None:
    """It loads little: the words stand there once more."""
    assert [right.value for right in Right] == list(RIGHTS)


def test_nobody_is_told_to_see_what_others_did_without_a_rule(tmp_path: Path) -> None:
    file = tmp_path / "vmgate.toml"
    file.write_text('[ssh]\n[[instances]]\nid = "i"\nname = "web"\nagent_socket = "x"\n')
    assert check(file, "anna", "web", "replay") == 1
    file.write_text(file.read_text() + '[[policy.rules]]\nallow = ["*"]\n')
    assert check(file, "anna", "web", "replay") == 1
    file.write_text(file.read_text() + '[[policy.rules]]\nallow = ["replay"]\n')
    assert check(file, "anna", "web", "replay") == 0
