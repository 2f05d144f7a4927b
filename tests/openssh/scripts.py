"""Every script of OpenSSH's regress suite: whether it judges us, or the reason why it does not.

The one list; docs/openssh-tests.md is written from it (`python -m tests.openssh --write-docs`).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tests.support.counts import count

SUITE = Path("/usr/lib/openssh/regress")  # where Debian's openssh-tests puts it
PACKAGE = "openssh-tests"
VERSION = "1:9.2p1-2+deb12u10"  # what the list was made for; another is run with a warning
DOCUMENT = Path(__file__).parents[2] / "docs" / "openssh-tests.md"

PLAIN = "A"  # needs a server, and one that is told where to listen
CONFIGURED = "B"  # needs a server that takes the script's configuration
NONE = "-"  # starts no server


@dataclass(frozen=True)
class Script:
    """One script. `skip` is the reason why it does not run, "" when it does; `seconds` is how long
    it may take, several times what it takes on two idle cores; `note` says what is special about it."""

    name: str
    group: str
    skip: str = ""
    seconds: int = 180
    note: str = ""
    small_file: bool = False  # the file that it copies is a small one
    without: tuple[str, ...] = ()  # what `ssh -Q` does not tell it of


NO_SERVER = "tests ssh-keygen, ssh-agent or the parser of ssh_config; no server takes part"
NOT_OFFERED = "tests an option of sshd that is not offered here: "

SCRIPTS = (
    Script("connect", PLAIN),
    Script("connect-uri", PLAIN),
    Script("proxy-connect", PLAIN),
    Script("exit-status", PLAIN),
    Script("exit-status-signal", PLAIN),
    Script("transfer", PLAIN),
    Script("stderr-data", PLAIN),
    Script("stderr-after-eof", PLAIN),
    Script("broken-pipe", PLAIN, note="names a configuration that is not there: proves little"),
    Script("yes-head", PLAIN),
    Script("forwarding", PLAIN),
    Script("dynamic-forward", PLAIN),
    Script("multiplex", PLAIN, seconds=300),
    Script("localcommand", PLAIN),
    Script("host-expand", PLAIN),
    Script("putty-transfer", PLAIN),
    Script("scp", PLAIN, note="scp -O too, whose other half it would run on this machine, goes through the gateway"),
    Script("scp3", PLAIN),
    Script("scp-uri", PLAIN, note="as scp"),
    Script(
        "sftp",
        PLAIN,
        seconds=count(3600, 300),
        note="with a file of 20,000 bytes in place of the suite's, whose 600,000 requests take ten minutes (PROVE=1)",
        small_file=not count(1, 0),
    ),
    Script("sftp-cmds", PLAIN),
    Script("sftp-badcmds", PLAIN),
    Script("sftp-batch", PLAIN),
    Script("sftp-glob", PLAIN),
    Script("sftp-uri", PLAIN),
    Script("banner", CONFIGURED),
    Script("envpass", CONFIGURED),
    Script("proto-version", CONFIGURED),
    Script("proto-mismatch", CONFIGURED),
    Script("try-ciphers", CONFIGURED, seconds=300),
    Script("kextype", CONFIGURED),
    Script("keytype", CONFIGURED, note="RSA keys of 3072 bits in place of 2048, which a host key may not have"),
    Script("rekey", CONFIGURED, seconds=600, note="limits below 16 KiB, the least that can be configured, are raised"),
    Script("integrity", CONFIGURED, seconds=600),
    Script("keyscan", CONFIGURED),
    Script("login-timeout", CONFIGURED, note="its MaxStartups is not offered and not needed"),
    Script("hostkey-rotate", CONFIGURED),
    Script("connect-privsep", CONFIGURED),
    Script("portnum", CONFIGURED),
    Script("percent", CONFIGURED),
    Script("knownhosts", CONFIGURED),
    Script("knownhosts-command", CONFIGURED),
    Script("brokenkeys", CONFIGURED),
    Script("cert-hostkey", CONFIGURED, seconds=1200),
    Script(
        "cert-userkey",
        CONFIGURED,
        seconds=1200,
        note="without its RSA keys, with which it asks for SHA-1 (ssh-rsa*); AuthorizedPrincipalsFile as "
        "cert-authority,principals= lines",
        without=("ssh-rsa",),
    ),
    Script("cert-file", CONFIGURED),
    Script("krl", CONFIGURED, seconds=1800, note="in place of ssh-keygen -Q the gateway says what is revoked"),
    Script("limit-keytype", CONFIGURED, note="Match User, of the one user that it has, is read by the shim"),
    Script("agent", CONFIGURED),
    Script("key-options", CONFIGURED),
    Script("forcecommand", CONFIGURED, note="Match User as in limit-keytype"),
    Script("forward-control", CONFIGURED, seconds=1200),
    Script("allow-deny-users", CONFIGURED, note="AllowUsers and DenyUsers as rules about instances"),
    Script("reconfigure", CONFIGURED, note="the shim writes the pid file when the gateway says that it has reloaded"),
    Script("principals-command", CONFIGURED, NOT_OFFERED + "AuthorizedPrincipalsCommand; what it says "
           "of principals= is in cert-userkey too"),
    Script("multipubkey", CONFIGURED, NOT_OFFERED + "AuthenticationMethods, two keys for one login"),
    Script("agent-restrict", CONFIGURED, NOT_OFFERED + "ExposeAuthInfo, by which it sees which key was used; keys that "
           "are bound to hosts are judged by tests of ours"),
    Script("dhgex", CONFIGURED, "begins with 3des-cbc, which is not offered: a 64-bit block (CVE-2016-2183)"),
    Script("putty-ciphers", CONFIGURED, "includes 3des, which is not offered: a 64-bit block (CVE-2016-2183)"),
    Script("putty-kex", CONFIGURED, "walks key exchanges with SHA-1 and group 1, which are not offered"),
    Script("conch-ciphers", CONFIGURED, "walks ciphers in CBC mode, which are not offered"),
    Script("authinfo", CONFIGURED, NOT_OFFERED + "ExposeAuthInfo; a guest learns nothing of its visitors' keys"),
    Script("keys-command", CONFIGURED, NOT_OFFERED + "AuthorizedKeysCommand"),
    Script("hostkey-agent", CONFIGURED, NOT_OFFERED + "HostKeyAgent"),
    Script("channel-timeout", CONFIGURED, NOT_OFFERED + "ChannelTimeout"),
    Script("connection-timeout", CONFIGURED, NOT_OFFERED + "UnusedConnectionTimeout"),
    Script("cfgmatch", CONFIGURED, NOT_OFFERED + "Match"),
    Script("cfgmatchlisten", CONFIGURED, NOT_OFFERED + "Match"),
    Script("cfgparse", CONFIGURED, "tests sshd's reading of sshd_config"),
    Script("servcfginclude", CONFIGURED, "tests sshd's reading of sshd_config"),
    Script("addrmatch", CONFIGURED, "tests sshd's reading of sshd_config"),
    Script("reexec", CONFIGURED, "tests that sshd starts itself anew for each connection; nothing here does"),
    Script("sftp-chroot", CONFIGURED, NOT_OFFERED + "ChrootDirectory; a guest's own borders are the instance's"),
    Script("sftp-perm", CONFIGURED, "gives options (-R, -p, -P) to OpenSSH's sftp-server; the agent's takes none"),
    Script("hostbased", CONFIGURED, "skips itself without the machine's own host keys; no such login is offered"),
    Script("sshfp-connect", CONFIGURED, "skips itself without a DNSSEC domain that was made for it"),
    *(
        Script(name, NONE, NO_SERVER)
        for name in (
            "agent-getpeereid", "agent-ptrace", "agent-subprocess", "agent-timeout", "cfginclude", "keygen-change",
            "keygen-comment", "keygen-convert", "keygen-knownhosts", "keygen-moduli", "keygen-sshfp", "sshcfgparse",
            "sshsig",
        )
    ),
)  # fmt: skip


def document() -> str:
    """What docs/openssh-tests.md says."""
    runs = [script for script in SCRIPTS if not script.skip]
    lines = [
        "# OpenSSH's own tests",
        "",
        "`make regress` runs the shell scripts of OpenSSH's regress suite, unchanged, against this gateway: the",
        "suite's hooks for another ssh and sshd get a shim (`tests/openssh/`) that reads the sshd_config of each",
        "script, starts a gateway with the same meaning and an agent on the same machine, and stands between them as",
        "`sshd -i` does. `ssh -Q` is narrowed to what is offered here. The suite is that of Debian's package",
        f"`{PACKAGE}`, version {VERSION}; another is run with a warning.",
        "",
        "One line a script: `PASS name seconds`, `SKIP name reason` or `FAIL name log`; the exit code is 1 when any",
        "failed. A script that skips itself although it should run has failed.",
        "",
        f"{len(runs)} scripts run. Group A needs a server only, group B one that takes the script's configuration, and",
        "those without a group start none. This table is written by `python -m tests.openssh --write-docs` from",
        "`tests/openssh/scripts.py`.",
        "",
        "| script | group | |",
        "|---|---|---|",
        *(f"| {script.name} | {script.group} | {_fate(script)} |" for script in SCRIPTS),
    ]
    return "\n".join(lines) + "\n"


def _fate(script: Script) -> str:
    if script.skip:
        return f"skipped: {script.skip}"
    return f"runs; {script.note}" if script.note else "runs"
