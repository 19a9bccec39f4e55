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
from millrace.io.files import read_toml
from millrace.io.paths import is_there
from millrace.rights.grants import Permission
from millrace.text import checked_number, printable, quoted

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
    source = path or default
    if path is None and not is_there(source):
        return PolicyConfig()
    try:
        return _parsed(read_toml(source))
    except ConfigError as error:
        raise ConfigError(f"{source}: {error}") from None


def _parsed(data: dict[str, Any]) -> PolicyConfig:
    remember, roles = _typed(data, "remember", bool, True), _typed(data, "roles", dict, {})
    duck, rules = _typed(data, "duck", dict, {}), _typed(data, "rule", list, [])
    on, db = _typed(duck, "on", list, list(ROLES_THAT_DUCK)), duck.pop("db", -20)
    db = checked_number(db, "duck.db", -96, 0)
    if not all(isinstance(word, str) for word in (*on, *roles.values())):
        raise ConfigError("roles and duck.on must be strings")
    for rest, where in ((data, ""), (duck, "duck.")):
        if rest:
            raise ConfigError(f"unknown {', '.join(printable(where + key) for key in sorted(rest))}")
    return PolicyConfig(remember, tuple(roles.items()), tuple(on), db, tuple(_rule(r) for r in rules))


def _typed(table: dict[str, Any], key: str, kind: type, default: Any) -> Any:
    value = table.pop(key, default)
    if not isinstance(value, kind):
        raise ConfigError(f"{key} must be {kind.__name__}, not {quoted(value)}")
    return value


def _rule(table: Any) -> Rule:
    if not isinstance(table, dict):
        raise ConfigError("a rule is a table: [[rule]]")
    left = dict(table)
    answer, always = _typed(left, "answer", str, ""), _typed(left, "always", bool, False)
    patterns = {key: _typed(left, key, str, "*") for key in ("guest", "identity", "application")}
    what = _typed(left, "what", list, [])
    known = {permission.value for permission in Permission}
    if answer not in ANSWERS:
        raise ConfigError(f"rule: answer must be one of {', '.join(ANSWERS)}, not {quoted(answer)}")
    if not all(isinstance(word, str) and word in known for word in what):
        raise ConfigError(f"rule: what must be a list of {', '.join(sorted(known))}")
    if left:
        raise ConfigError(f"rule: unknown {', '.join(map(printable, sorted(left)))}")
    return Rule(answer, what=tuple(what), always=always, **patterns)
