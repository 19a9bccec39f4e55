"""Faults are injected into running processes, and an incident names the right stage and cause."""

from __future__ import annotations

import json
import os
import subprocess
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from millrace.sim.signals import sine
from tests import pictureends

from .conftest import MILLRACE, Bus, need, need_root, wait_for, write_wav
from .faults.kinds import KINDS, Kind
from .faults.scene import Scene
from .test_clients import s16

pytestmark = pytest.mark.real
Scenes = Callable[[str], Scene]
LOADED = {
    ("loop", "not run"), ("loop", "starved"), ("loop", "busy"), ("cycle", "overran"), ("encoder", "slow"),
    ("client", "wrote late"), ("machine", "late"), ("microphone", "late"), ("device", "late"),
    ("listener", "not run"), ("network", "late"), ("network", "stalled"),
}  # fmt: skip
"""What can happen by itself on a loaded machine."""
STALL_S, LOOK_S = 0.008, 0.002
"""A thread that sleeps for `LOOK_S` and is so much late was not run: others wanted the processors."""


class Load:
    """Whether this machine was loaded, by a witness that knows nothing of the daemon and its incidents."""

    def __init__(self) -> None:
        self.stalls = 0
        threading.Thread(target=self._look, daemon=True).start()

    def _look(self) -> None:
        last = time.monotonic()
        while True:
            time.sleep(LOOK_S)
            now = time.monotonic()
            self.stalls += now - last > LOOK_S + STALL_S
            last = now


@pytest.fixture(scope="module")
def load() -> Load:
    return Load()


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scenes]:
    """A running system of a kind, started on first use. One runs at a time, because each takes processor time."""
    made: dict[str, Scene] = {}

    def scene(what: str) -> Scene:
        if what not in made:
            while made:
                made.popitem()[1].close()
            made[what] = Scene(tmp_path_factory.mktemp(what), what)
        return made[what]

    yield scene
    for one in made.values():
        one.close()


BURNING = {"starved", "busy", "overran", "slow"}
"""Causes that must be told from a lack of processor time, so a processor has to be free when they are injected."""
DELICATE = {"line", "microphone"}
"""Scenes with little sound buffered: a disturbance by other programs would be audible before the fault is."""


def beside(number: int, kind: Kind) -> Any:
    """A kind with the marks that schedule it.

    The faults of a group follow each other in one scene, and the groups run in parallel: one for each sort of scene,
    three for the plain one. A fault that takes a whole processor, or is sensitive to load, runs alone.
    """
    group = f"{kind.scene} scene" + (f" {number % 3}" if kind.scene == "plain" else "")
    alone = kind.cause in BURNING or kind.scene in DELICATE
    marks = [pytest.mark.xdist_group(group), *([pytest.mark.alone] if alone else [])]
    return pytest.param(kind, id=kind.name.replace(" ", "-"), marks=marks)


BY_SCENE = sorted(enumerate(KINDS), key=lambda one: (one[1].scene == "plain", one[1].scene))
"""The faults of a scene follow each other; the plain one is last, as other tests go on with it."""


@pytest.mark.parametrize("kind", [beside(number, kind) for number, kind in BY_SCENE])
def test_incident_names_stage_and_cause(kind: Kind, scenes: Scenes, load: Load) -> None:
    """Whether the incident is the first, how reliably, and how exact its time is, `python -m bench faults` measures.

    On a loaded machine a fault may coincide with a stall, or be covered by the target delay that earlier stalls have
    raised, so it is injected up to three times.
    """
    scene = scenes(kind.scene)
    for _ in range(3):
        before = load.stalls
        named = made_and_named(kind, scene)
        others = named - {(kind.stage, kind.cause), *kind.also} - (LOADED if load.stalls > before else set())
        if (kind.stage, kind.cause) in named and not others:
            break
    assert (kind.stage, kind.cause) in named, named
    assert not others, "other incidents are caused by a loaded machine only"


def made_and_named(kind: Kind, scene: Scene) -> set[tuple[str, str]]:
    """Inject a fault; returns the stages and causes of the incidents after it, until its own or for 8 s."""
    scene.ready()
    before = {one["id"] for one in scene.incidents()}
    kind.make(scene)
    end = time.monotonic() + 8
    named: set[tuple[str, str]] = set()
    while time.monotonic() < end and (kind.stage, kind.cause) not in named:
        time.sleep(0.02)
        named = {(one["stage"], one["cause"]) for one in scene.incidents() if one["id"] not in before}
    return named


@pytest.mark.alone
def test_daemon_without_cpu_time_says_so(scenes: Scenes) -> None:
    """Many programs compete at a higher priority than the daemon's, none of them real-time."""
    scene = scenes("plain")
    scene.ready()
    need_root()
    before = {one["id"] for one in scene.incidents()}

    def starved() -> bool:
        return any(one["cause"] == "starved" for one in scene.incidents() if one["id"] not in before)

    hogs = [subprocess.Popen(["sh", "-c", "while :; do :; done"]) for _ in range(2 * (os.cpu_count() or 1))]
    try:
        for task in Path(f"/proc/{scene.daemon}/task").iterdir():
            os.setpriority(os.PRIO_PROCESS, int(task.name), min(19, os.getpriority(os.PRIO_PROCESS, 0) + 19))
        wait_for(starved, 20, "it is starved")
    finally:
        for one in hogs:
            one.kill()
            one.wait()
        for task in Path(f"/proc/{scene.daemon}/task").iterdir():
            os.setpriority(os.PRIO_PROCESS, int(task.name), 0)


def test_latency_explain_top_dot_and_report_show_a_running_stream(bus: Bus, tmp_path: Path) -> None:
    need("paplay")
    tone = write_wav(tmp_path / "tone.wav", s16(sine(40.0)))
    player = bus.spawn("paplay", "--latency-msec=60", str(tone), stderr=subprocess.DEVNULL)
    bus.spawn(*MILLRACE, "listen", bus.url(), "--to", "null:", "-q")
    wait_for(lambda: any(one["latency_ms"] for one in bus.guest()["listeners"]), 30, "the listener hears")
    time.sleep(1.0)
    stream = bus.guest()["streams"][0]["id"]
    way = json.loads(bus.cli("latency", stream, "--json").stdout)["listeners"][0]
    assert abs(way["sum_ms"] - way["reported_ms"]) < 5 and len(way["stages"]) >= 9
    told = bus.cli("explain", stream).stdout
    for word in ("paplay", "s16le, 48000 Hz", "asked for", "none: the guest also runs at 48000 Hz", "Opus at 128 kb/s"):
        assert word in told
    assert stream in bus.cli("top", "--once").stdout and "digraph" in bus.cli("dot").stdout
    archive = tmp_path / "r.tar.gz"
    bus.cli("report", "--to", str(archive))
    packed = subprocess.run(["tar", "tzf", archive], capture_output=True, text=True, check=True).stdout
    assert "flight/default.json" in packed and "incidents.json" in packed
    for path in ("/metrics", "/ready", "/api/v1/openapi.json"):
        asked = urllib.request.Request(f"http://{bus.listen}{path}", headers={"Authorization": f"Bearer {bus.key}"})
        with urllib.request.urlopen(asked, timeout=5) as answer:
            assert answer.status == 200 and answer.read()
    assert player.poll() is None


@pytest.mark.alone
@pytest.mark.parametrize("kind", pictureends.STALLS, ids=[kind.cause for kind in pictureends.STALLS])
def test_stall_of_the_daemon_is_noticed_while_only_pictures_move(kind: pictureends.Kind) -> None:
    # On a machine that others use, it is starved rather than busy, and may have been so before.
    takes = (pictureends.injected(kind, seed)[1] for seed in (1, 2, 3))
    assert any(one.stage == "loop" and one.cause in (kind.cause, "starved") for found in takes for one in found)
