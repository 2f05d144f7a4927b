"""What the `vmgate` command takes. Loads nothing but argparse, so that completion and --help are quick."""

from __future__ import annotations

import argparse
from collections.abc import Callable

LEVELS = ("debug", "info", "warn", "error", "critical")
SHELLS = ("bash", "zsh", "fish")
RIGHTS = ("exec", "shell", "pty", "read", "write", "forward", "agent", "attach", "replay")
VM = "its id, its name, or the beginning of its id"


def parser(wanted: str = "") -> argparse.ArgumentParser:
    """The whole command line, with all that `wanted` takes. `options.command` says which subcommand."""
    whole = argparse.ArgumentParser(prog="vmgate", description="The way into microVMs.")
    commands = whole.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, text: str, *, talks: bool = True) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=text, description=f"{text[:1].upper()}{text[1:]}.")
        if talks:
            _gateway(made)
        return made

    _list(command("ls", "list the instances that the token may see"))
    _process(command("exec", "run a command in an instance"), login=False)
    _process(command("shell", "enter an instance: its user's login shell"), login=True)
    _copy(command("cp", "copy files or trees into an instance or out of it"))
    _stat(command("stat", "tell what is at a path of an instance"))
    _token(command("token", "mint a token by a secret or a key that the gateway believes", talks=False))
    _config(command("config", "look at a configuration: `config check`", talks=False))
    _policy(command("policy", "ask a configuration who may do what: `policy check`", talks=False))
    _ssh(command("ssh-config", "print Host blocks for ssh, scp and sftp"))
    _recordings(command("recordings", "show what sessions showed, on the gateway's machine", talks=False))
    _admin(command)
    shells = command("completion", "print a script that completes this command's words", talks=False)
    shells.add_argument("shell", choices=SHELLS)
    agent = command("agent", "make what a guest runs: `agent bundle`", talks=False)
    if wanted == "agent":
        from gateway.cli import bundle  # noqa: PLC0415 (it loads a lot)

        within = agent.add_subparsers(dest="within", required=True, metavar="COMMAND")
        bundle.arguments(within.add_parser("bundle", help="make the agent into what a guest without Python runs"))
    demo = command("demo", "run a gateway and two guests to try, on this machine", talks=False)
    if wanted == "demo":
        from gateway.cli.demo import arguments  # noqa: PLC0415 (it loads a lot)

        arguments(demo)
    return whole


def _gateway(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("gateway")
    group.add_argument("--server", metavar="NAME", help="a table [servers.NAME] of ~/.config/vmgate/config.toml")
    group.add_argument("--url", help="its address (default: $VMGATE_URL, then the file)")
    group.add_argument("--token-file", metavar="FILE", help="holds the token (default: $VMGATE_TOKEN, then the file)")


def _list(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="as the gateway answers")
    parser.add_argument("-q", "--quiet", action="store_true", help="names alone")


def _process(parser: argparse.ArgumentParser, *, login: bool) -> None:
    add = parser.add_argument
    add("-u", "--user", default="", help="of the guest (default: the agent's own)")
    add("-e", "--env", action="append", default=[], metavar="NAME=VALUE", help="a variable; NAME alone = as it is here")
    add("-w", "--workdir", default="", metavar="DIR", help="where it runs (default: the user's home)")
    add("-n", "--no-input", action="store_true", help="it gets no stdin")
    add(
        "-t",
        "--terminal",
        action="store_true",
        help="it gets a terminal",
    )
    if not login:
        add("-i", "--interactive", action="store_true", help="send what is typed (a pipe or a file is always sent)")
    add("--timeout", type=int, default=0, metavar="SECONDS", help="end it after so long")
    _wait(parser)
    add("instance", metavar="VM", help=VM)
    if not login:
        add("words", nargs=argparse.REMAINDER, metavar="-- COMMAND", help="the command and its arguments")


def _wait(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--wait", type=int, default=10, metavar="SECONDS", help="for a guest that boots (default: %(default)s)"
    )


def _copy(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("-r", "--recursive", action="store_true", help="directories too, with all below them")
    add("-a", "--archive", action="store_true", help="-r, and owners and special mode bits as they are")
    add("-L", "--follow-links", action="store_true", help="what links lead to, in their places")
    add("-p", "--parents", action="store_true", help="make the directories that are missing above DST")
    add("-u", "--user", default="", help="of the guest (default: the agent's own)")
    add("-q", "--quiet", action="store_true", help="no progress")
    add("--json", action="store_true", help="a report for programs, on stdout")
    _wait(parser)
    add("source", metavar="SRC", help="PATH or VM:PATH; SRC/. means what is in it")
    add("target", metavar="DST", help="PATH or VM:PATH; one of the two is a VM's")


def _stat(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-L", "--follow-links", action="store_true", help="what a link leads to")
    parser.add_argument("-u", "--user", default="", help="of the guest (default: the agent's own)")
    parser.add_argument("--json", action="store_true", help="as the gateway answers")
    parser.add_argument("place", metavar="VM:PATH")


def _token(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    by = parser.add_mutually_exclusive_group(required=True)
    by.add_argument("--secret-file", metavar="FILE", help="one of the gateway's token_secret_files")
    by.add_argument("--key-file", metavar="FILE", help="a private key in PEM, whose public one [[tokens]] names")
    add("--algorithm", default="", metavar="NAME", help="HS512, PS256, … (default: HS256, RS256, ES256 or EdDSA)")
    add("--kid", default="", metavar="NAME", help="the key's name in its set")
    add("--issuer", default="", metavar="NAME", help="iss, which [[tokens]] wants")
    add("--audience", default="", metavar="NAME", help="aud, which [[tokens]] wants")
    add("--groups", default="", metavar="NAME,NAME", help="for the policy's rules")
    add("--subject", default="", metavar="NAME", help="who it is for, as the audit will tell")
    add("--life", default="12h", metavar="TIME", help="30s, 15m, 12h or 7d (default: %(default)s)")
    add(
        "--instances",
        default="",
        metavar="VM,VM",
        help="what may be entered (default: all, or what the rules say)",
    )
    add(
        "--permissions",
        default="",
        metavar="NAME,NAME",
        help="instance:read, instance:write, files:read (default: all)",
    )


def _recordings(parser: argparse.ArgumentParser) -> None:
    within = parser.add_subparsers(dest="within", required=True, metavar="COMMAND")
    ls = within.add_parser("ls", help="list them")
    ls.add_argument("--json", action="store_true", help="for programs")
    play = within.add_parser("play", help="show one again, as it was")
    play.add_argument("--speed", type=_positive, default=1.0, metavar="TIMES", help="so many times as fast")
    play.add_argument("--idle", type=_positive, default=3.0, metavar="SECONDS", help="no pause is longer (default: 3)")
    cat = within.add_parser("cat", help="print all that one showed")
    for one in (ls, play, cat):
        one.add_argument(
            "-d", "--directory", default="recordings", metavar="DIR", help="of [recording] (default: %(default)s)"
        )
    for one in (play, cat):
        one.add_argument("recording", metavar="SESSION", help="its session, the beginning of that, or a file.cast")


def _admin(command: Callable[..., argparse.ArgumentParser]) -> None:
    sessions = command("sessions", "list the sessions that run, on the gateway's machine", talks=False)
    sessions.add_argument("--json", action="store_true", help="for programs")
    kill = command("kill", "end a session, on the gateway's machine", talks=False)
    kill.add_argument("session", metavar="SESSION", help="as `vmgate sessions` shows it, or the beginning of that")
    drain = command("drain", "let nobody in any more, and stop when the sessions are over", talks=False)
    reload = command("reload", "apply the configuration anew, whole or not at all", talks=False)
    level = command("log-level", "change what the gateway logs, until it reloads", talks=False)
    level.add_argument("level", choices=LEVELS)
    level.add_argument("namespace", nargs="?", default="", help="such as gateway.ssh (default: all)")
    for one in (sessions, kill, drain, reload, level):
        one.add_argument(
            "--socket", metavar="PATH", help="of [admin] (default: $VMGATE_ADMIN, then /run/vmgate/admin.sock)"
        )


def _positive(text: str) -> float:
    number = float(text)
    if not 0 < number < 1e9:
        raise argparse.ArgumentTypeError("it must be more than 0")
    return number


def _config(parser: argparse.ArgumentParser) -> None:
    check = parser.add_subparsers(dest="within", required=True, metavar="COMMAND").add_parser(
        "check", help="tell every problem of it, each with its line: exit code 0 or 1"
    )
    check.add_argument("file", metavar="FILE", help="the gateway's")
    check.add_argument(
        "--credentials", default="", metavar="DIR", help="where the files of `credential:NAME` are, outside of systemd"
    )


def _policy(parser: argparse.ArgumentParser) -> None:
    check = parser.add_subparsers(dest="within", required=True, metavar="COMMAND").add_parser(
        "check", help="tell whether somebody may do something, and why: exit code 0 or 1"
    )
    add = check.add_argument
    add("--config", required=True, metavar="FILE", help="the gateway's")
    add("--subject", required=True, metavar="NAME", help="who: a key's comment, a token's sub")
    add("--instance", required=True, metavar="VM", help="its id or name")
    add("--op", required=True, choices=RIGHTS, metavar="OP", help=", ".join(RIGHTS))
    add("--group", action="append", default=[], metavar="NAME", help="that the subject is in; once for each")
    add("--claim", action="append", default=[], metavar="NAME=VALUE", help="of its token; once for each")
    add("--source", metavar="ADDRESS", help="from where (default: from anywhere)")
    add("--user", metavar="NAME", help='of the guest (default: anyone; "" = the agent\'s own)')


def _ssh(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--ssh",
        default="",
        metavar="HOST[:PORT]",
        help="the gateway's ssh side (default: ssh of the file, then its host)",
    )
    add("--user", default="", help="of the guests (default: the agent's own)")
    add("--identity", default="", metavar="FILE", help="the key to show")
    add("--prefix", default="", help="what stands before each name")
