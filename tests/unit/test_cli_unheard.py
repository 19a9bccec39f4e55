"""What `listen` and `ls` say of streams that play into sinks which a listener does not hear."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from millrace.cli import api, listen
from millrace.cli.ls import _missed
from millrace.cli.unheard import unheard, warning
from millrace.client.options import ListenerOptions
from tests.answering import Daemon


def sink(number: int, name: str, *onward: str, default: bool = False) -> dict[str, Any]:
    return {"id": f"sink/{number}", "name": name, "aliases": [], "default": default, "linked_to": list(onward)}


def stream(number: int, *sinks: str, state: str = "running") -> dict[str, Any]:
    return {"id": f"stream/{number}", "application": "mpv", "name": "x", "state": state, "linked_to": list(sinks)}


def guest(*streams: dict[str, Any], onward: tuple[str, ...] = ()) -> dict[str, Any]:
    sinks = [sink(0, "millrace", default=True), sink(1, "music", *onward)]
    return {"name": "a b", "sinks": sinks, "streams": list(streams)}


def test_what_reaches_the_sink_is_heard_also_over_others() -> None:
    moved = stream(5, "sink/1")
    assert unheard(guest(moved, stream(6, "sink/1", state="paused")), "sink/0") == [moved]
    assert unheard(guest(moved, onward=("sink/0",)), "sink/0") == []
    assert unheard(guest(moved, onward=("sink/1",)), "sink/0") == [moved], "a loop ends"
    assert unheard(guest(stream(5, "sink/1", "sink/0")), "sink/0") == []


def test_the_warning_names_program_and_sink_and_what_to_do() -> None:
    one = guest(stream(5, "sink/1"), stream(7, "sink/1"))
    assert warning(one, None) == (
        "not heard: mpv, which plays into music, and 1 more; `--sink` hears another sink,"
        " `millrace link stream/5 sink/0` adds it to this one"
    )
    assert warning(one, "music") == warning(one, "no such sink") == warning(guest(), None) == ""
    assert _missed(one, "sink/0") == ", does not hear stream/5 and 1 more" and _missed(one, "sink/1") == ""


def test_listen_asks_its_own_daemon_only(monkeypatch: pytest.MonkeyPatch) -> None:
    daemon = Daemon()
    monkeypatch.setattr(api, "call", daemon.call)
    daemon.answers["GET /api/v1/state?guest=a+b"] = {"guests": [guest(stream(5, "sink/1"))]}
    own = ListenerOptions(socket=Path("/run/api.sock"))
    assert [text[:20] for text in listen._unheard(own, "ws://localhost/a%20b")] == ["not heard: mpv, whic"]
    assert listen._unheard(ListenerOptions(), "ws://far/a%20b") == [] and len(daemon.asked) == 1
