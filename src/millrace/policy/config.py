"""The policy's configuration: TOML, at $XDG_CONFIG_HOME/millrace/policy.toml.

remember = true                        # volumes, mutes and sinks of applications

[roles]                                # where streams of a role go, if they name no sink themselves
music = "sink/music"

[duck]
on = ["phone", "communication"]        # while one of these plays, everything else is turned down
db = -20

[[rule]]                               # answers to programs that have to ask; the first that matches counts
guest = "*"
identity = "flatpak:org.mozilla.*"     # as the kernel knows it
what = ["microphone"]
answer = "allow"                       # allow, deny, or ask (a person)
always = true
"""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from millrace.errors import ConfigError
from millrace.io.toml import Table, read_config
from millrace.rights.grants import Permission
from millrace.text import checked_number, parse_choice, printable, quoted

ANSWERS = ("allow", "deny", "ask")
ROLES_THAT_DUCK = ("phone", "communication")


@dataclass(frozen=True, slots=True)
class Rule:
    """One answer. Patterns are shell patterns. `application` is what a program calls itself, which proves nothing."""

    answer: str
    guest: str = "*"
    identity: str = "*"
    application: str = "*"
    what: tuple[str, ...] = ()
    always: bool = False

    def matches(self, request: dict[str, Any]) -> bool:
        """Whether the rule matches this request, in the registry's form."""
        return (
            (not self.what or request["what"] in self.what)
            and fnmatchcase(request["guest"], self.guest)
            and fnmatchcase(request["program"], self.identity)
            and fnmatchcase(request["name"], self.application)
        )


@dataclass(frozen=True, slots=True)
class PolicyConfig:
    """The whole configuration."""

    remember: bool = True
    roles: tuple[tuple[str, str], ...] = ()
    duck_on: tuple[str, ...] = ROLES_THAT_DUCK
    duck_db: float = -20.0
    rules: tuple[Rule, ...] = ()


def load(path: Path | None, default: Path) -> PolicyConfig:
    """Read `path`, or the default file if it exists; a ConfigError names the fault."""
    return read_config(path, default, _parsed) or PolicyConfig()


def _parsed(data: dict[str, Any]) -> PolicyConfig:
    table = Table(data)
    remember, roles = table.take("remember", bool, True), table.table("roles").rest()
    duck, rules = table.table("duck"), table.take("rule", list, [])
    table.end()
    on, db = duck.texts("on", ROLES_THAT_DUCK), checked_number(duck.any("db", -20), "duck.db", -96, 0)
    duck.end()
    for role, sink in roles.items():
        if not isinstance(sink, str):
            raise ConfigError(f'roles.{printable(role)} must be the name of a sink, such as "sink/music"')
    return PolicyConfig(remember, tuple(roles.items()), tuple(on), db, tuple(_rule(rule) for rule in rules))


def _rule(values: Any) -> Rule:
    if not isinstance(values, dict):
        raise ConfigError("a rule is a table: [[rule]]")
    table = Table(values, "rule")
    patterns = {key: table.take(key, str, "*") for key in ("guest", "identity", "application")}
    what, answer, always = table.texts("what"), table.text("answer"), table.take("always", bool, False)
    table.end()
    known = {permission.value for permission in Permission}
    if answer not in ANSWERS:
        raise ConfigError(f"rule.answer must be one of {', '.join(ANSWERS)}, not {quoted(answer)}")
    for name in what:
        parse_choice(name, "rule.what", sorted(known))
    return Rule(answer, what=tuple(what), always=always, **patterns)
