"""`vmgate policy check`: what a configuration says of somebody, explained. Asks no gateway."""

from __future__ import annotations

import argparse
from pathlib import Path

from gateway.auth.keys import parse as parse_keys
from gateway.cli.problem import Problem
from gateway.config import Config, parse
from gateway.config.policy import Right, Rule
from gateway.errors import ConfigError
from gateway.model import Instance, Principal
from gateway.policy import NO_REPLAY, Asked, Decision, judged, named, steps


def run(options: argparse.Namespace) -> int:
    """0 = allowed, 1 = refused, and every rule on the way there."""
    config = _load(Path(options.config))
    instance = _instance(config, options.instance)
    right = Right(options.op)
    claims = dict(_pair(text) for text in options.claim)
    who = Principal(options.subject, "policy check", None, groups=frozenset(options.group), claims=claims)
    if config.policy.rules is None:
        decision = _by_key(config, who, instance, right)
    else:
        for step in steps(who, right, instance, config.policy.rules):
            print(f"  {step.rule.name}: {step.passed or _terms(step.rule)}")
        asked = Asked(source=options.source, user=options.user)
        decision = judged(who, right, instance, asked, config.policy.rules)
    print(f"{'allowed' if decision.allowed else 'refused'}: {decision.reason}")
    return 0 if decision.allowed else 1


def _load(file: Path) -> Config:
    try:
        return parse(file.read_text(encoding="utf-8"), str(file), file.absolute().parent, Path.read_bytes)
    except (OSError, UnicodeDecodeError) as error:
        raise Problem(f"{file} cannot be read: {error}", 2) from None
    except ConfigError as error:
        raise Problem("\n".join(["the configuration cannot be used:", *error.problems]), 2) from None


def _instance(config: Config, name: str) -> Instance:
    """By its exact id, else its exact name; no beginnings: who asks for a proof names it whole."""
    for instance in (*[i for i in config.instances if i.id == name], *[i for i in config.instances if i.name == name]):
        return instance
    raise Problem(f"there is no instance {name!r}; there are {', '.join(i.name or i.id for i in config.instances)}", 2)


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise Problem(f"{text!r} is no claim; it looks like team=storage", 2)
    return name, value


def _by_key(config: Config, who: Principal, instance: Instance, right: Right) -> Decision:
    """Without rules a credential says itself what it opens; those of keys are known here, tokens are not."""
    print("  there are no [[policy.rules]]: each key and token says itself where it enters")
    if right is Right.REPLAY:
        return Decision(False, NO_REPLAY)
    found = [key for lines in _keys(config) for key in lines if key.subject == who.subject]
    if any(named(key, instance, config.policy) for key in found):
        return Decision(True, f"a key of {who.subject} names the instance")
    return Decision(False, f"{len(found)} keys of {who.subject}, none names the instance")


def _keys(config: Config) -> list[list[Principal]]:
    if config.ssh is None:
        return []
    try:
        authorized = parse_keys(config.ssh.authorized_keys.read_bytes())
    except OSError:
        return []
    return [[key.principal for key in lines] for lines in authorized.keys.values()]


def _terms(rule: Rule) -> str:
    """What the rule that decides says."""
    limits = rule.limits
    terms = [
        f"from {', '.join(map(str, rule.sources))}" if rule.sources else "",
        f"as {', '.join(repr(user) for user in rule.users)}" if rule.users else "",
        f"at most {limits.sessions} sessions" if limits.sessions else "",
        f"idle for {limits.idle:g} s" if limits.idle else "",
        f"{limits.total:g} s in all" if limits.total else "",
    ]
    return "; ".join([f"{'allows' if rule.allows else 'denies'} it", *filter(None, terms)])
