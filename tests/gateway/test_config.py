"""A configuration is whole and right, or every problem of it is told with its line."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config import Config, SSHConfig, parse
from gateway.config.entry import EntryConfig
from gateway.errors import ConfigError
from gateway.model import CidAddress, Instance, MuxerAddress, Offence, Origin, PortPattern, UnixAddress

SECRET = b"x" * 32
WHOLE = """
ready_file = "ready.json"

[ssh]
listen = ["tcp:2222", "tcp6:2222"]
authorized_keys = "/etc/vmgate/keys"
login_grace = 12.5

[http]
listen = "tcp:8080"
token_secret_files = "secret"

[metrics]
hypeman_names = true

[audit]
file = "audit.log"

[sessions]
drain = 1

[[instances]]
id = "a1"
name = "alpha"
vsock_socket = "/run/a.sock"

[[instances]]
id = "b2"
vsock_cid = 42
state = "Stopped"

[[instances]]
id = "c3"
agent_socket = "c.sock"
"""


def read(path: Path) -> bytes:
    if path.name == "missing":
        raise FileNotFoundError(2, "No such file or directory")
    return b"short" if path.name == "short" else SECRET + b"\n"


def config(text: str) -> Config:
    return parse(text, "vmgate.toml", Path("/etc/vmgate"), read)


def problems(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        config(text)
    return caught.value.problems


def test_a_whole_file_gives_every_slice() -> None:
    c = config(WHOLE)
    assert c.ssh is not None
    assert c.http is not None
    assert c.metrics is not None
    assert c.metrics.hypeman_names
    assert c.ssh.listen == ("tcp:2222", "tcp6:2222")
    assert c.ssh.authorized_keys == Path("/etc/vmgate/keys")
    assert c.ssh.login_grace == 12.5
    assert c.http.listen == ("tcp:8080",)
    assert c.http.token_secrets == (SECRET,)
    assert c.audit.file == Path("/etc/vmgate/audit.log")
    assert c.ready_file == Path("/etc/vmgate/ready.json")
    assert c.sessions.drain == 1
    assert c.instances == (
        Instance(id="a1", name="alpha", address=MuxerAddress("/run/a.sock")),
        Instance(id="b2", name="", address=CidAddress(42), state="Stopped"),
        Instance(id="c3", name="", address=UnixAddress("/etc/vmgate/c.sock")),
    )


def test_variables_for_every_session_have_names_that_a_shell_can_use() -> None:
    c = config('[ssh]\nset_env = { LANG = "C", A_1 = "" }\n')
    assert c.ssh is not None
    assert dict(c.ssh.set_env) == {"LANG": "C", "A_1": ""}
    assert problems('[ssh.set_env]\n1A = "x"\nC = 1\nD = "\\u0000"\n') == [
        "vmgate.toml:2: ssh.set_env.1A: a variable's name may hold letters, digits and underscore only",
        "vmgate.toml:3: ssh.set_env.C: a text is needed",
        "vmgate.toml:4: ssh.set_env.D: a variable cannot hold a NUL",
    ]


def test_a_banner_is_told_as_its_file_has_it() -> None:
    text = "one\ntwo\r\n\nüber"
    for banner in (text, ""):
        c = parse('[ssh]\nbanner = "b"', "vmgate.toml", Path("/"), lambda _, banner=banner: banner.encode())
        assert c.ssh is not None
        assert c.ssh.banner == banner
    with pytest.raises(ConfigError, match="longer than 131072 bytes"):
        parse('[ssh]\nbanner = "b"', "vmgate.toml", Path("/"), lambda _: b"x" * 131073)


def test_every_problem_is_told_with_its_line_in_one_go() -> None:
    assert problems(
        """[ssh]
listen = 22

[http]
typo = true
token_secret_files = ["short", "missing"]

[[instances]]
id = "a"
vsock_cid = 2

[[instances]]
id = "a"
name = "b c"
"""
    ) == [
        "vmgate.toml:2: ssh.listen: a text or a list of texts is needed",
        "vmgate.toml:5: http.typo: no such key; known here: "
        "listen, max_connections, max_wait_for_agent, origins, token_secret_files",
        "vmgate.toml:6: http.token_secret_files: missing cannot be read: No such file or directory",
        "vmgate.toml:6: http.token_secret_files: short holds 5 bytes; at least 32 are needed for HS256",
        "vmgate.toml:10: instances.vsock_cid: a whole number from 3 to 4294967294 is needed",
        "vmgate.toml:12: instances: give exactly one of vsock_socket, vsock_cid and agent_socket",
        "vmgate.toml:13: instances.id: 'a' is the name of another instance too",
        "vmgate.toml:14: instances.name: 'b c' may hold letters, digits, dot, dash and underscore only",
    ]


def forwarding(lines: str) -> SSHConfig:
    ssh = config("[ssh]\n" + lines).ssh
    assert ssh is not None
    return ssh


def test_forwards_are_allowed_as_sshd_words_it() -> None:
    ssh = forwarding(
        """allow_tcp_forwarding = "local"
allow_agent_forwarding = false
gateway_ports = true
permit_open = ["localhost:80", "*:443", "[::1]:*"]
permit_listen = []
"""
    )
    assert (ssh.allow_tcp_forwarding, ssh.allow_streamlocal_forwarding) == ("local", "yes")
    assert (ssh.allow_agent_forwarding, ssh.gateway_ports) == (False, True)
    assert ssh.permit_open == (PortPattern("localhost", 80), PortPattern("*", 443), PortPattern("::1", None))
    assert ssh.permit_listen == ()
    assert forwarding("").permit_open == (PortPattern("*", None),)


@pytest.mark.parametrize("text", ["80", "a:b", "::1:80", ":80", "a:65536", "a:", "a:-1"])
def test_a_port_pattern_that_is_none_is_told(text: str) -> None:
    assert problems(f'[ssh]\npermit_open = ["{text}"]') == [
        f"vmgate.toml:2: ssh.permit_open: {text!r} is not host:port, such as localhost:80, *:8080 or [::1]:*"
    ]


def test_a_wrong_word_for_forwarding_is_told() -> None:
    assert problems('[ssh]\nallow_tcp_forwarding = "maybe"\ngateway_ports = 1') == [
        "vmgate.toml:2: ssh.allow_tcp_forwarding: one of yes, no, local, remote is needed",
        "vmgate.toml:3: ssh.gateway_ports: true or false is needed",
    ]


def test_what_the_transport_cannot_do_is_refused_with_its_line() -> None:
    told = problems(
        """[ssh]
host_key = "a"
host_keys = ["b"]
ciphers = ["aes128-gcm@openssh.com", "3des-cbc"]
macs = []
kex_algorithms = "diffie-hellman-group1-sha1"
compression = 1
rekey_bytes = 100
keepalive_interval = -1
banner = "missing"
"""
    )
    assert [problem.split(": ", 2)[0:2] for problem in told] == [
        ["vmgate.toml:3", "ssh.host_keys"],
        ["vmgate.toml:4", "ssh.ciphers"],
        ["vmgate.toml:5", "ssh.macs"],
        ["vmgate.toml:6", "ssh.kex_algorithms"],
        ["vmgate.toml:7", "ssh.compression"],
        ["vmgate.toml:8", "ssh.rekey_bytes"],
        ["vmgate.toml:9", "ssh.keepalive_interval"],
        ["vmgate.toml:10", "ssh.banner"],
    ]
    assert told[1].startswith("vmgate.toml:4: ssh.ciphers: '3des-cbc' is not known; known: aes128-gcm@openssh.com, ")


def test_one_host_key_or_several_are_named() -> None:
    for text, files in (
        ("", ["ssh_host_ed25519_key"]),
        ('host_key = "a"', ["a"]),
        ('host_keys = ["a", "/b"]', ["a", "/b"]),
    ):
        ssh = config(f"[ssh]\n{text}\n").ssh
        assert ssh is not None
        assert ssh.host_keys == tuple(Path("/etc/vmgate") / file for file in files)


SSH_ONLY = "[ssh]\n"
ENTRY = (
    SSH_ONLY
    + """[entry]
max_startups = "5:50:50"
max_per_source = 3
exempt = ["10.0.0.0/8", "2001:db8::1"]
[entry.penalties]
authfail = 60
noauth = 0
min = 1
max = 3600
"""
)


def test_what_is_allowed_before_a_login_is_said_as_sshd_says_it() -> None:
    entry = config(ENTRY).entry
    assert entry.startups == (5, 50, 50)
    assert entry.max_per_source == 3
    assert [str(network) for network in entry.exempt] == ["10.0.0.0/8", "2001:db8::1/128"]
    assert entry.penalties.seconds == {
        Offence.NOAUTH: 0, Offence.AUTHFAIL: 60, Offence.GRACE_EXCEEDED: 10, Offence.CRASH: 90
    }  # fmt: skip
    assert (entry.penalties.least, entry.penalties.most) == (1, 3600)
    assert config(SSH_ONLY).entry == EntryConfig()
    assert config(SSH_ONLY + '[entry]\nmax_startups = "20"\n').entry.startups == (20, 100, 20)


@pytest.mark.parametrize(
    "line",
    [
        'max_startups = "10:0:100"',
        'max_startups = "100:30:10"',
        'max_startups = "10:101:100"',
        'max_startups = "10:30"',
        'max_startups = ""',
        "max_startups = 10",
        "max_per_source = 0",
        'exempt = ["10.0.0.1/8"]',
        'exempt = ["localhost"]',
        "penalties = 5",
        "penalties.authfail = -1",
        "penalties.invaliduser = 5",
        "penalties.min = 700",
    ],
)
def test_what_cannot_be_said_of_entry_is_told(line: str) -> None:
    [problem] = problems(SSH_ONLY + f"[entry]\n{line}\n")
    assert "entry" in problem


def test_what_is_not_toml_is_told_with_its_line() -> None:
    (problem,) = problems("[ssh]\nlisten = \n")
    assert problem.startswith("vmgate.toml: not valid TOML:")
    assert "line 2" in problem


def test_a_file_by_which_nobody_could_come_in_is_refused() -> None:
    assert problems("") == ["vmgate.toml:1: neither [ssh] nor [http] is there, so nobody could come in"]
    assert problems("[http]")[0].startswith("vmgate.toml:1: http.token_secret_files: name at least one file")


TOML = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 70000) | st.text("ab.:\"'\n", max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["ssh", "http", "instances", "listen", "id", "vsock_cid", "x"]), inner)
    ),
    max_leaves=12,
)


def as_toml(value: object) -> str:
    match value:
        case bool():
            return str(value).lower()
        case int():
            return str(value)
        case list():
            return "[" + ", ".join(as_toml(v) for v in value if v is not None) + "]"
        case dict():
            return "{" + ", ".join(f"{k} = {as_toml(v)}" for k, v in value.items() if v is not None) + "}"
        case _:
            return '"' + str(value).encode("unicode_escape").decode().replace('"', "\\u0022") + '"'


@given(
    st.dictionaries(st.sampled_from(["ssh", "http", "entry", "metrics", "audit", "sessions", "instances", "y"]), TOML)
)
def test_any_toml_is_a_configuration_or_a_list_of_problems(document: dict[str, object]) -> None:
    text = "\n".join(f"{key} = {as_toml(value)}" for key, value in document.items() if value is not None)
    try:
        config(text)
    except ConfigError as error:
        assert error.problems
        assert all(problem.startswith("vmgate.toml") for problem in error.problems)


def test_the_web_terminal_is_there_unless_the_operator_says_no() -> None:
    text = '[http]\ntoken_secret_files = "secret"\n'
    for more, there in {
        "": True,
        "[web]\n": True,
        "[web]\npage = true\n": True,
        "[web]\npage = false\n": False,
    }.items():
        http = parse(text + more, "x", Path("/"), lambda _: b"s" * 32).http
        assert http is not None
        assert http.page is there
    with pytest.raises(ConfigError, match=r"x:4: web\.pages: no such key; known here: page"):
        parse(text + "[web]\npages = false\n", "x", Path("/"), lambda _: b"s" * 32)


def test_origins_are_spelled_as_browsers_do() -> None:
    text = '[http]\ntoken_secret_files = "secret"\norigins = {}\n'
    good = text.format('["https://vms.example.org", "http://[::1]:8080"]')
    http = parse(good, "x", Path("/"), lambda _: b"s" * 32).http
    assert http is not None
    assert http.origins == (Origin("https", "vms.example.org", 443), Origin("http", "[::1]", 8080))
    with pytest.raises(ConfigError) as caught:
        parse(text.format('["*", "https://VMS.example.org/"]'), "x", Path("/"), lambda _: b"s" * 32)
    assert caught.value.problems == [
        f"x:3: http.origins: {origin!r} is not an origin, such as https://vms.example.org or http://10.0.0.5:8080"
        for origin in ("*", "https://VMS.example.org/")
    ]
