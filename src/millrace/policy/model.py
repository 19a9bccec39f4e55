"""The policy itself, free of I/O: objects of the registry in, commands out."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from millrace.policy.config import PolicyConfig

LEARNT_MAX = 1000
LEVEL_MAX = 4 * 0x10000
"""400 %: the highest volume that can be set."""


class Command(NamedTuple):
    """A request to the daemon."""

    method: str
    args: dict[str, Any]


class _Seen(NamedTuple):
    """A stream as last shown. Levels are PulseAudio volumes, one per channel."""

    levels: tuple[int, ...]
    mute: bool
    sink: str


@dataclass(slots=True)
class _Stream:
    """What is known of one stream; `wanted` is what the policy has requested for it."""

    key: str
    guest: str
    role: str
    running: bool
    placed: bool
    seen: _Seen
    wanted: _Seen | None = None
    ducked: bool = False

    def on_its_way(self, now: _Seen) -> bool:
        """Whether `now` is only the effect of our own request, or of part of it."""
        if self.wanted is None:
            return False
        return all(value in (before, asked) for value, before, asked in zip(now, self.seen, self.wanted, strict=True))


class _Sink(NamedTuple):
    """A sink or source: its key, and its names as `kind/name`, the current one first."""

    guest: str
    key: str
    names: tuple[str, ...]


# The policy sees its own commands come back as changes of the streams, in one or several steps, mixed with what users
# do at the same time. Learning from them would make it remember what it has itself restored. `wanted` is what it
# asked for: a change in which every value is either the old one or the wanted one is its own doing. Any other is a
# user's choice and ends the wait, since from then on the values are the user's.
#
# What a client chose itself (`chosen`) is never overridden, and neither is a stream that existed before the policy
# connected: its level was already set, perhaps through the policy that ran before.
@dataclass(slots=True)
class Policy:
    """The state of one session manager.

    What is remembered belongs to the daemon (programs read and write it too, by PulseAudio's stream-restore), and comes
    with each stream. `_learnt_by_key` only covers the time until the daemon shows what we have sent.
    """

    config: PolicyConfig
    _learnt_by_key: dict[str, tuple[dict[str, Any], dict[str, Any]]] = field(default_factory=dict)
    _streams: dict[str, dict[int, _Stream]] = field(default_factory=dict)
    _homes: dict[int, str] = field(default_factory=dict)
    _calls: dict[str, set[int]] = field(default_factory=dict)
    _sinks: dict[int, _Sink] = field(default_factory=dict)
    _by_key: dict[str, _Sink] = field(default_factory=dict)

    def seen(self, id_: int, kind: str, guest: str, shown: dict[str, Any], new: bool) -> list[Command]:
        """An object exists: it was added (`new`), existed from the start, or has changed."""
        if kind in ("sink", "source"):
            names = (shown["name"], *shown.get("aliases", ()))
            sink = _Sink(guest, shown["id"], tuple(f"{kind}/{name}" for name in names))
            self._sinks[id_] = self._by_key[sink.key] = sink
        elif kind == "request":
            return self._answer(shown) if new else []
        elif kind == "stream":
            return self._stream(id_, guest, shown, new)
        return []

    def gone(self, id_: int) -> list[Command]:
        """An object was removed."""
        sink = self._sinks.pop(id_, None)
        if sink is not None:
            self._by_key.pop(sink.key, None)
        stream = self._streams.get(self._homes.pop(id_, ""), {}).pop(id_, None)
        return self._duck(stream, id_, here=False) if stream is not None else []

    # -- requests --------------------------------------------------------------------------------

    def _answer(self, request: dict[str, Any]) -> list[Command]:
        rule = next((rule for rule in self.config.rules if rule.matches(request)), None)
        if rule is None or rule.answer == "ask":
            return []
        # "Always" needs an identity: without one, the grant would cover every unknown program.
        always = rule.always and bool(request["sandbox"] or request["program"] != "an unknown program")
        return [Command("decide", {"request": request["id"], "allow": rule.answer == "allow", "always": always})]

    # -- streams ---------------------------------------------------------------------------------

    def _stream(self, id_: int, guest: str, shown: dict[str, Any], new: bool) -> list[Command]:
        now = _Seen(tuple(shown["levels"]), shown["mute"], self._name_of(shown["sink"]))
        known = self._streams.get(guest, {}).get(id_)
        running, placed = shown["state"] == "running", shown["placed"]
        out: list[Command] = []
        if known is None:
            self._homes[id_] = guest
            known = _Stream(shown["id"], guest, shown["role"], running, placed, now)
            self._streams.setdefault(guest, {})[id_] = known
            if new:
                out += self._welcome(known, shown)
        elif now != known.seen:
            if not known.on_its_way(now):
                out += self._learn(known, now, shown)
                known.wanted = None
            known.seen = now
        known.running, known.placed = running, placed
        return out + self._duck(known, id_, here=True)

    def _name_of(self, key: str) -> str:
        """A sink's name, which outlives its number."""
        sink = self._by_key.get(key)
        return sink.names[0] if sink is not None else key

    def _sink(self, guest: str, name: str) -> str | None:
        """The current name of a guest's sink, by its key or any of its names; None if there is none."""
        for sink in self._sinks.values():
            if sink.guest == guest and (name == sink.key or name in sink.names):
                return sink.names[0]
        return None

    def _welcome(self, stream: _Stream, shown: dict[str, Any]) -> list[Command]:
        """Give a new stream the level and the sink remembered for its kind, or else its role's sink."""
        kept, (levels, mute, sink) = self._kept(shown), stream.seen
        own = set(shown["chosen"])
        named = kept["sink"] or dict(self.config.roles).get(stream.role)
        target = self._sink(stream.guest, named) if named else None
        out: list[Command] = []
        settings: dict[str, Any] = {}
        if kept["levels"] and tuple(kept["levels"]) != levels and "volume" not in own:
            levels = tuple(kept["levels"])
            settings["volume"] = ",".join(f"{min(level, LEVEL_MAX) / 655.36:.6f}%" for level in levels)
        if kept["mute"] is not None and kept["mute"] != mute and "mute" not in own:
            settings["mute"] = mute = kept["mute"]
        if settings:
            out.append(Command("set", {"target": stream.key, "settings": settings}))
        if target and target != sink and "sink" not in own:
            out.append(Command("move", {"target": stream.key, "to": target, "guest": stream.guest}))
            sink = target
        if out:
            stream.wanted = _Seen(levels, mute, sink)
        return out

    def _kept(self, shown: dict[str, Any]) -> dict[str, Any]:
        """What is remembered for such streams: what we last sent, until the daemon shows something else."""
        remembered: dict[str, Any] = shown["remembered"]
        said, after = self._learnt_by_key.get(remembered["key"], (None, None))
        if said == remembered and after is not None:
            return after
        self._learnt_by_key.pop(remembered["key"], None)
        return remembered

    def _learn(self, stream: _Stream, now: _Seen, shown: dict[str, Any]) -> list[Command]:
        """Somebody changed a stream: remember that for later streams of its kind.

        A new sink counts only if somebody moved the stream. A stream that followed the default sink, or whose sink was
        removed, was moved by nobody.
        """
        before, kept = stream.seen, dict(self._kept(shown))
        if (now.levels, now.mute) != (before.levels, before.mute):
            kept |= {"levels": list(now.levels), "mute": now.mute}
        lost_sink = self._sink(stream.guest, before.sink) is None
        if now.sink != before.sink and not lost_sink and (stream.placed or shown["placed"]):
            kept["sink"] = now.sink if shown["placed"] else None
        if not self.config.remember or kept == self._kept(shown):
            return []
        self._learnt_by_key.pop(kept["key"], None)
        self._learnt_by_key[kept["key"]] = (shown["remembered"], kept)
        if len(self._learnt_by_key) > LEARNT_MAX:
            del self._learnt_by_key[next(iter(self._learnt_by_key))]
        value = {"levels": kept["levels"], "map": shown["map"], "mute": kept["mute"], "sink": kept["sink"]}
        return [Command("remember", {"key": kept["key"], "value": json.dumps(value)})]

    # -- ducking ---------------------------------------------------------------------------------

    # The set of running calls decides, not the order of events: all streams are looked at when the first call begins
    # or the last one ends, otherwise only the one that changed, and a command is sent only if it changes anything. If
    # the policy itself ends, the daemon releases what its connection had attenuated.
    def _duck(self, stream: _Stream, id_: int, here: bool) -> list[Command]:
        """While a call is on, turn down the guest's other streams: all when it begins, and new ones."""
        calls = self._calls.setdefault(stream.guest, set())
        before = bool(calls)
        if here and stream.running and stream.role in self.config.duck_on:
            calls.add(id_)
        else:
            calls.discard(id_)
        mine = self._streams.setdefault(stream.guest, {})
        concerned = mine.values() if bool(calls) != before else [stream] if here else []
        out: list[Command] = []
        for one in concerned:
            ducked = bool(calls) and one.role not in self.config.duck_on
            if ducked != one.ducked:
                one.ducked = ducked
                db = self.config.duck_db if ducked else 0.0
                out.append(Command("duck", {"target": one.key, "db": db, "guest": one.guest}))
        return out
