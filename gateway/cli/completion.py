"""`vmgate completion`: a script for the user's shell, which asks this very command for the words that fit.

So the three scripts are a few lines each, know names of instances, and never differ from the parser.
"""

from __future__ import annotations

import argparse

from gateway.cli.parser import parser

BASH = """\
_vmgate() {
    local IFS=$'\\n' word
    COMPREPLY=()
    COMP_WORDBREAKS=${COMP_WORDBREAKS//:/}
    for word in $(vmgate __complete "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null); do
        COMPREPLY+=("$word")
    done
    [[ ${#COMPREPLY[@]} == 1 && ${COMPREPLY[0]} == *: ]] && compopt -o nospace
    [[ ${#COMPREPLY[@]} == 0 ]] && compopt -o default
}
complete -F _vmgate vmgate
"""
ZSH = """\
#compdef vmgate
_vmgate() {
    local -a found
    found=("${(@f)$(vmgate __complete "${(@)words[2,CURRENT]}" 2>/dev/null)}")
    if [[ -n "$found" ]]; then
        compadd -Q -S '' -- "${found[@]}"
    else
        _files
    fi
}
compdef _vmgate vmgate
"""
FISH = """\
function __vmgate_complete
    set -l words (commandline -opc) (commandline -ct)
    vmgate __complete $words[2..-1] 2>/dev/null
end
complete -c vmgate -a '(__vmgate_complete)'
"""
SCRIPTS = {"bash": BASH, "zsh": ZSH, "fish": FISH}


def run(options: argparse.Namespace) -> int:
    """The script on stdout."""
    print(SCRIPTS[options.shell], end="")
    return 0


def candidates(words: list[str]) -> list[str]:
    """What may stand for the last of these words; none = whatever the shell itself would offer."""
    *before, last = words or [""]
    whole = parser(before[0] if before else "")
    commands = _commands(whole)
    if not before:
        return [name for name in commands if name.startswith(last)]
    command = commands.get(before[0])
    if command is None or "--" in before:
        return []
    taking = _value_of(command, before)
    if taking is not None:
        return [str(choice) for choice in taking.choices or () if str(choice).startswith(last)]
    if last.startswith("-"):
        return sorted(name for action in command._actions for name in action.option_strings if name.startswith(last))
    return _places(command, before[0], before, last)


def _commands(whole: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    for action in whole._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    return {}


def _value_of(command: argparse.ArgumentParser, before: list[str]) -> argparse.Action | None:
    """The option whose value comes now."""
    named = {name: action for action in command._actions for name in action.option_strings}
    action = named.get(before[-1])
    return action if action is not None and action.nargs != 0 else None


def _places(command: argparse.ArgumentParser, name: str, before: list[str], last: str) -> list[str]:
    positional = [action for action in command._actions if not action.option_strings]
    if not positional:
        return []
    if positional[0].choices:
        return [str(choice) for choice in positional[0].choices if str(choice).startswith(last)]
    if name not in ("exec", "shell", "cp", "stat"):
        return []
    alone = name in ("exec", "shell")
    # Behind its VM, what follows is the guest's.
    if alone and any(not word.startswith("-") and not _takes(command, at, before) for at, word in _behind(before)):
        return []
    return [vm + ("" if alone else ":") for vm in _instances(command, before) if vm.startswith(last)]


def _behind(before: list[str]) -> list[tuple[int, str]]:
    return list(enumerate(before))[1:]


def _takes(command: argparse.ArgumentParser, at: int, before: list[str]) -> bool:
    """Whether the word at that place is an option's value."""
    return at > 1 and _value_of(command, before[:at]) is not None


def _instances(command: argparse.ArgumentParser, before: list[str]) -> list[str]:
    """Names that the gateway tells; none when it cannot be asked."""
    from gateway.cli import list as listing  # noqa: PLC0415 (only where names are wanted)
    from gateway.cli import server  # noqa: PLC0415
    from gateway.cli.problem import Problem  # noqa: PLC0415

    options = argparse.Namespace(server=None, url=None, token_file=None)
    for at, word in _behind(before[:-1]):
        for key in vars(options):
            if word == f"--{key.replace('_', '-')}":
                setattr(options, key, before[at + 1])
    try:
        return [str(one["name"]) for one in listing.instances(server.find(options)) if str(one["name"]).isprintable()]
    except Problem:
        return []
