"""The policy itself, pure: objects of the registry in, commands out."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from millrace.policy.config import PolicyConfig

PREFIX = "stream/"
"""Where it keeps what it remembers."""


class Command(NamedTuple):
    """Something to ask of the daemon."""

    method: str
    args: dict[str, Any]


@dataclass(slots=True)
class _Stream:
    """What is known of one stream: `seen` is (volume, mute, sink) as last shown, `wanted` what we have asked for."""

    key: str
    guest: str
    memory: str
    role: str
    running: bool
    seen: tuple[Any, Any, Any]
    wanted: tuple[Any, Any, Any] | None = None
    ducked: bool = False


class _Sink(NamedTuple):
    """A sink or source: its key, and its names as `kind/name`, the one it has now first."""

    guest: str
    key: str
    names: tuple[str, ...]


@dataclass(slots=True)
class Policy:
    """One session manager's view of the world. `memory` is what the daemon keeps for it."""

    config: PolicyConfig
    memory: dict[str, str] = field(default_factory=dict)
    _streams: dict[str, dict[int, _Stream]] = field(default_factory=dict)
    _homes: dict[int, str] = field(default_factory=dict)
    _calls: dict[str, set[int]] = field(default_factory=dict)
    _sinks: dict[int, _Sink] = field(default_factory=dict)

    def seen(self, id_: int, kind: str, guest: str, shown: dict[str, Any], new: bool) -> list[Command]:
        """An object is there: it came (`new`), was there from the start, or has changed."""
        if kind in ("sink", "source"):
            names = (shown["name"], *shown.get("aliases", ()))
            self._sinks[id_] = _Sink(guest, shown["id"], tuple(f"{kind}/{name}" for name in names))
        elif kind == "request":
            return self._answer(shown) if new else []
        elif kind == "stream":
            return self._stream(id_, guest, shown, new)
        return []

    def gone(self, id_: int) -> list[Command]:
        """An object is no more."""
        self._sinks.pop(id_, None)
        stream = self._streams.get(self._homes.pop(id_, ""), {}).pop(id_, None)
        return self._duck(stream, id_, here=False) if stream is not None else []

    # -- requests --------------------------------------------------------------------------------

    def _answer(self, request: dict[str, Any]) -> list[Command]:
        rule = next((rule for rule in self.config.rules if rule.matches(request)), None)
        if rule is None or rule.answer == "ask":
            return []
        always = rule.always and bool(request["sandbox"] or request["program"] != "an unknown program")
        return [Command("decide", {"request": request["id"], "allow": rule.answer == "allow", "always": always})]

    # -- streams ---------------------------------------------------------------------------------

    def _stream(self, id_: int, guest: str, shown: dict[str, Any], new: bool) -> list[Command]:
        now = (shown["volume"], shown["mute"], self._name_of(shown["sink"]))
        known = self._streams.get(guest, {}).get(id_)
        running = shown["state"] == "running"
        out: list[Command] = []
        if known is None:
            label = shown["application"] or shown["name"]
            memory = f"{PREFIX}{guest}/{label[:80]}/{shown['role'][:40]}"
            self._homes[id_] = guest
            known = self._streams.setdefault(guest, {})[id_] = _Stream(
                shown["id"], guest, memory, shown["role"], running, now
            )
            if new:
                out += self._welcome(known, shown)
        elif now != known.seen:
            # A stream whose sink went away was moved by nobody.
            lost_sink = known.seen[2] != now[2] and self._sink(guest, known.seen[2]) is None
            known.seen = now
            if now != known.wanted and not lost_sink:
                out += self._learnt(known)
            known.wanted = None
        known.running = running
        return out + self._duck(known, id_, here=True)

    def _name_of(self, key: str) -> str:
        """A sink's name, which outlives its number."""
        return next((sink.names[0] for sink in self._sinks.values() if sink.key == key), key)

    def _sink(self, guest: str, name: str) -> str | None:
        """The name that a sink of a guest has now, by its key or any of its names; None where there is none."""
        for sink in self._sinks.values():
            if sink.guest == guest and (name == sink.key or name in sink.names):
                return sink.names[0]
        return None

    def _welcome(self, stream: _Stream, shown: dict[str, Any]) -> list[Command]:
        """A stream has come: it gets the level and the sink of its like, else its role's sink."""
        kept = self._recalled(stream.memory)
        volume, mute, sink = stream.seen
        own = set(shown.get("chosen", ()))
        named = kept.get("sink") or dict(self.config.roles).get(stream.role)
        target = self._sink(stream.guest, named) if isinstance(named, str) else None
        out: list[Command] = []
        settings = {key: kept[key] for key in ("volume", "mute") if key in kept and kept[key] != shown[key]}
        if settings and "volume" not in own:
            shown_as = {key: f"{v}%" if key == "volume" else v for key, v in settings.items()}
            out.append(Command("set", {"target": stream.key, "settings": shown_as}))
            volume, mute = settings.get("volume", volume), settings.get("mute", mute)
        if target and target != sink and "sink" not in own:
            out.append(Command("move", {"target": stream.key, "to": target, "guest": stream.guest}))
            sink = target
        if out:
            stream.wanted = (volume, mute, sink)
        return out

    def _recalled(self, key: str) -> dict[str, Any]:
        try:
            kept = json.loads(self.memory.get(key, "{}"))
        except ValueError:
            return {}
        return kept if isinstance(kept, dict) else {}

    def _learnt(self, stream: _Stream) -> list[Command]:
        """Somebody changed a stream: its like will come back so."""
        if not self.config.remember:
            return []
        volume, mute, sink = stream.seen
        percent = volume if isinstance(volume, int) else round(sum(volume) / len(volume))
        value = json.dumps({"volume": percent, "mute": mute, "sink": sink})
        if self.memory.get(stream.memory) == value:
            return []
        self.memory[stream.memory] = value
        return [Command("remember", {"key": stream.memory, "value": value})]

    # -- ducking ---------------------------------------------------------------------------------

    def _duck(self, stream: _Stream, id_: int, here: bool) -> list[Command]:
        """While a call is on, the guest's others are taken back: one that comes, or all when a call begins or ends."""
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
