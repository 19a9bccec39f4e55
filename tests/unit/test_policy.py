"""The policy, pure: what it answers, restores, learns and ducks; and its configuration."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from millrace.errors import ConfigError
from millrace.policy.config import PolicyConfig, Rule, load
from millrace.policy.model import Command, Policy

SINKS = {1: "default", 2: "music"}


NOTHING = {"key": "stream/alice/sink-input-by-media-role:music", "levels": [], "mute": None, "sink": None}


def made(config: PolicyConfig | None = None) -> Policy:
    policy = Policy(config or PolicyConfig())
    for id_, name in SINKS.items():
        assert not policy.seen(id_, "sink", "alice", {"id": f"sink/{id_}", "name": name}, False)
    return policy


def stream(id_: int = 7, **changes: Any) -> dict[str, Any]:
    return {
        "id": f"stream/{id_}", "name": "song", "application": "mpv", "role": "music", "state": "running",
        "levels": [0x10000, 0x10000], "map": "front-left,front-right", "mute": False, "sink": "sink/1", "chosen": [],
        "placed": False, "remembered": NOTHING,
    } | changes  # fmt: skip


def test_stream_goes_to_sink_of_its_role_unless_it_named_one() -> None:
    config = PolicyConfig(roles=(("music", "sink/music"),))
    moved = Command("move", {"target": "stream/7", "to": "sink/music", "guest": "alice"})
    assert made(config).seen(7, "stream", "alice", stream(), True) == [moved]
    assert not made(config).seen(7, "stream", "alice", stream(chosen=["sink"]), True)
    assert not made(config).seen(7, "stream", "alice", stream(role="video"), True)
    assert not made(config).seen(7, "stream", "alice", stream(sink="sink/2"), True)
    assert not made(config).seen(7, "stream", "bob", stream(), True), "bob has no such sink"
    assert not made(config).seen(7, "stream", "alice", stream(), False), "a running stream stays"


def learnt(commands: list[Command]) -> dict[str, Any]:
    (kept,) = commands
    assert kept.method == "remember" and kept.args["key"] == NOTHING["key"]
    value: dict[str, Any] = json.loads(kept.args["value"])
    return value


def test_settings_made_by_user_are_learnt_and_applied_to_next_stream_of_group() -> None:
    policy = made()
    assert not policy.seen(7, "stream", "alice", stream(), True)
    now = stream(levels=[0x6000, 0x8000], sink="sink/2", placed=True)
    value = learnt(policy.seen(7, "stream", "alice", now, False))
    assert value == {
        "levels": [0x6000, 0x8000], "map": "front-left,front-right", "mute": False, "sink": "sink/music",
    }  # fmt: skip
    assert not policy.gone(7)
    # It applies immediately, even before the daemon shows it.
    for remembered in (NOTHING, NOTHING | {key: value[key] for key in ("levels", "mute", "sink")}):
        commands = policy.seen(8, "stream", "alice", stream(8, remembered=remembered), True)
        assert [c.method for c in commands] == ["set", "move"]
        assert commands[0].args["settings"] == {"volume": "37.500000%,50.000000%"}
        assert commands[1].args["to"] == "sink/music"
        policy.gone(8)
    policy.seen(8, "stream", "alice", stream(8, remembered=remembered), True)
    # Our own changes are announced too, one by one: nothing is learnt from them.
    for ours in ({"levels": [0x6000, 0x8000]}, {"levels": [0x6000, 0x8000], "sink": "sink/2", "placed": True}):
        assert not policy.seen(8, "stream", "alice", stream(8, remembered=remembered, **ours), False)
    own = stream(9, chosen=["volume", "mute", "sink"], remembered=remembered | {"mute": True})
    assert not policy.seen(9, "stream", "alice", own, True)


def test_later_change_by_program_overrides_learnt_settings() -> None:
    policy = made()
    policy.seen(7, "stream", "alice", stream(), True)
    policy.seen(7, "stream", "alice", stream(mute=True), False)
    written = NOTHING | {"levels": [0x8000, 0x8000], "mute": False}
    (command,) = policy.seen(8, "stream", "alice", stream(8, remembered=written), True)
    assert command.args["settings"] == {"volume": "50.000000%,50.000000%"}


def test_sink_is_learnt_only_if_stream_was_moved() -> None:
    policy = made()
    policy.seen(7, "stream", "alice", stream(), True)
    assert not policy.seen(7, "stream", "alice", stream(sink="sink/2"), False), "it followed the default sink"
    assert learnt(policy.seen(7, "stream", "alice", stream(sink="sink/2", mute=True), False))["sink"] is None
    pinned = NOTHING | {"mute": True, "sink": "sink/music"}
    policy.seen(9, "stream", "alice", stream(9, remembered=pinned, mute=True), False)
    followed = stream(9, remembered=pinned, mute=True, sink="sink/2")
    assert not policy.seen(9, "stream", "alice", followed, False), "its group keeps its sink"
    there = stream(8, sink="sink/2", placed=True, mute=True, remembered=pinned)
    policy.seen(8, "stream", "alice", there, True)
    # Back on the default sink, it follows the default again, and so will its group.
    back = there | {"sink": "sink/1", "placed": False}
    assert learnt(policy.seen(8, "stream", "alice", back, False))["sink"] is None


def test_fallback_from_removed_sink_is_not_learnt() -> None:
    policy = made()
    policy.seen(7, "stream", "alice", stream(sink="sink/2", placed=True), True)
    policy.gone(2)
    assert not policy.seen(7, "stream", "alice", stream(sink="sink/1"), False)


def test_sink_is_found_by_its_former_name() -> None:
    kept = NOTHING | {"sink": "sink/default"}
    for roles, remembered in (((), kept), ((("music", "sink/default"),), NOTHING)):
        policy = made(PolicyConfig(roles=roles))
        policy.seen(3, "sink", "alice", {"id": "sink/3", "name": "millrace", "aliases": ["default"]}, False)
        policy.gone(1)
        moved = policy.seen(7, "stream", "alice", stream(sink="sink/2", remembered=remembered), True)
        assert moved == [Command("move", {"target": "stream/7", "to": "sink/millrace", "guest": "alice"})]
        there = stream(8, sink="sink/3", remembered=remembered)
        assert not policy.seen(8, "stream", "alice", there, True), "it is already there"


def test_nothing_is_learnt_if_remembering_is_off() -> None:
    policy = made(PolicyConfig(remember=False))
    policy.seen(7, "stream", "alice", stream(), True)
    assert not policy.seen(7, "stream", "alice", stream(levels=[1, 1]), False)


def test_call_ducks_other_streams_of_its_guest_until_it_ends() -> None:
    policy = made()
    policy.seen(7, "stream", "alice", stream(), True)
    policy.seen(8, "stream", "bob", stream(8), True)
    (ducked,) = policy.seen(9, "stream", "alice", stream(9, role="phone"), True)
    assert ducked == Command("duck", {"target": "stream/7", "db": -20.0, "guest": "alice"})
    late = policy.seen(10, "stream", "alice", stream(10), True)
    assert [c.args["target"] for c in late] == ["stream/10"]
    freed = policy.seen(9, "stream", "alice", stream(9, role="phone", state="idle"), False)
    assert {(c.args["target"], c.args["db"]) for c in freed} == {("stream/7", 0.0), ("stream/10", 0.0)}
    policy.seen(9, "stream", "alice", stream(9, role="phone"), False)
    assert len(policy.gone(9)) == 2


REQUEST = {
    "id": "request/3", "guest": "alice", "what": "microphone", "program": "flatpak:org.x.Y",
    "sandbox": "flatpak:org.x.Y", "name": "Y", "pid": 1, "uid": 0,
}  # fmt: skip


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (Rule("allow", identity="flatpak:org.x.*", always=True), {"allow": True, "always": True}),
        (Rule("deny", what=("microphone", "camera")), {"allow": False, "always": False}),
        (Rule("allow", what=("monitor",)), None),
        (Rule("allow", guest="bob"), None),
        (Rule("allow", identity="firefox*"), None),
        (Rule("ask"), None),
    ],
)
def test_matching_rules_answer_requests(rule: Rule, expected: dict[str, bool] | None) -> None:
    policy = made(PolicyConfig(rules=(rule,)))
    commands = policy.seen(3, "request", "alice", REQUEST, True)
    assert [c.args for c in commands] == ([{"request": "request/3"} | expected] if expected else [])
    assert not policy.seen(3, "request", "alice", REQUEST, False)


def test_first_matching_rule_applies_and_unknown_program_is_never_answered_always() -> None:
    policy = made(PolicyConfig(rules=(Rule("ask", identity="flatpak:*"), Rule("allow", always=True))))
    assert not policy.seen(3, "request", "alice", REQUEST, True)
    unknown = REQUEST | {"program": "an unknown program", "sandbox": ""}
    assert policy.seen(4, "request", "alice", unknown, True)[0].args["always"] is False


def test_configuration_is_read_and_mistakes_are_named(tmp_path: Path) -> None:
    file = tmp_path / "policy.toml"
    assert load(None, file) == PolicyConfig()
    file.write_text(
        'remember = false\n[roles]\nmusic = "sink/m"\n[duck]\non = ["phone"]\ndb = -12\n'
        '[[rule]]\nanswer = "allow"\nidentity = "firefox-esr"\nwhat = ["camera"]\n'
    )
    found = load(None, file)
    assert found == PolicyConfig(
        False, (("music", "sink/m"),), ("phone",), -12.0, (Rule("allow", "*", "firefox-esr", what=("camera",)),)
    )
    for text, message in (
        ("remember = 1", "remember must be true or false"),
        ("[duck]\ndb = 3", "outside -96"), ("colour = 1", "unknown colour"),
        ('[[rule]]\nanswer = "maybe"', r"rule\.answer .*allow, deny, ask"),
        ('[[rule]]\nanswer = "ask"\nwhat = ["x"]', r"rule\.what: 'x' is not one of .*microphone"),
        ('[[rule]]\nanswer = "ask"\nwho = "x"', "unknown who"),
        ("[roles]\nmusic = 1", r"roles\.music must be the name of a sink"),
        ("=", "line 1"),
        ("rule = [1]", "is a table"),
    ):  # fmt: skip
        file.write_text(text)
        with pytest.raises(ConfigError, match=message):
            load(file, file)
    with pytest.raises(ConfigError, match="No such file"):
        load(tmp_path / "none.toml", file)
