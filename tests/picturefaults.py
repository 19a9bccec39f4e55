"""Faults of pictures in virtual time, each with its true stage, cause and moment; for tests and `bench picture_faults`.

A guest shows a film to two viewers; one fault happens; the first incident after it has to name it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any
from unittest.mock import patch

import numpy as np

from millrace.budget import PROGRAMS, Budget
from millrace.doors.qemu.input import ConsoleInput
from millrace.doors.qemu.screen import QemuScreen
from millrace.errors import CodecError
from millrace.graph.model import Ids
from millrace.io.sharedpicture import shared_picture
from millrace.observe.diagnosis import Diagnosis, Surroundings
from millrace.observe.incidents import Incident
from millrace.outlets.picturework import Made, PictureWork, Task
from millrace.pixels.rects import Rect
from millrace.sim.net import Path
from millrace.sim.qemuscreen import RGB565, FakeConsole, exchange
from millrace.symptoms import Symptom
from millrace.units import NS_PER_MS, NS_PER_S, HostNs
from millrace.wire.peer.messages import Trouble
from millrace.wire.peer.pictures import Key, Refresh, TakeKeyboard, Watch
from millrace.wire.qemu.client import Console, DisplayClient
from millrace.wire.qemu.display import ScreenPeer
from tests.painting import steps
from tests.watch import Desk, Remote

FULL = Watch(formats=["raw", "zstd", "jpeg", "png"], codecs=["avc1"])
STEP_MS = 35
PICTURE_NS = NS_PER_S // 30
WITHIN_NS = PICTURE_NS + 20 * NS_PER_MS
SETTLE_STEPS, WAIT_MS = 100, 6_000


class Timed(PictureWork):
    """Real work, which takes the virtual time that the desk's threads say, or fails."""

    fails = False
    spend: Callable[[], None]

    def make(self, task: Task) -> Made:
        if type(self).fails:
            raise CodecError("the encoder is broken")
        made = super().make(task)
        type(self).spend()
        return made


class Scene:
    """A guest, its screen with a film, two viewers, and what becomes of their trouble."""

    def __init__(self, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        self.desk = Desk(encodes=True)
        Timed.fails, Timed.spend = False, self.desk.threads.spend
        self.found: list[Incident] = []
        around = Surroundings(lambda: self.desk.now_ns, lambda: self.desk.now_ns, int, int, lambda pid: False)
        self.diagnosis = Diagnosis(around, Ids().take, tuple, self._changed, lambda: None)
        self.desk.home.report = self.diagnosis.report
        self.still = False
        self.painter = self.desk.add(width=self.one_of(480, 560, 640), height=self.one_of(340, 360, 400))
        self.painter.pixels[:] = 230
        self._film = self._films()
        self.one, self.other = self.viewer(), self.viewer()
        for _ in range(SETTLE_STEPS + int(self.random.integers(0, 30))):
            self.step()

    def one_of(self, *choices: Any) -> Any:
        """One of these, by the seed."""
        return choices[int(self.random.integers(0, len(choices)))]

    def some_ms(self, least: int, most: int) -> int:
        """A duration, by the seed."""
        return int(self.random.integers(least, most))

    def viewer(self, watch: Watch = FULL, path: Path | None = None) -> Remote:
        """A further viewer, which does not decode what it is sent."""
        path = path or Path(delay_ns=self.some_ms(1, 10) * NS_PER_MS)
        return Remote(self.desk, watch, path, draws=False)

    def _changed(self, change: str, incident: Incident) -> None:
        if change == "new":
            self.found.append(incident)

    def _films(self) -> Iterator[None]:
        while True:
            painter, seed = self.painter, int(self.random.integers(1, 9))
            for rects in steps("film", painter.pixels, seed, 30):
                painter.screen.painted(rects, self.desk.now_ns)
                yield

    def step(self) -> None:
        """One picture of the film, unless it stands still."""
        if not self.still:
            next(self._film)
        self.run(STEP_MS)

    def run(self, ms: int) -> None:
        """Let time pass."""
        for _ in range(ms // 5):
            self.desk.run(5)
            due_ns = self.diagnosis.next_timeout()
            if due_ns is not None and due_ns <= self.desk.now_ns:
                self.diagnosis.handle_timeout(self.desk.now_ns)

    def wait(self) -> None:
        """Until the fault was blamed on something, or it is too late."""
        for _ in range(WAIT_MS // STEP_MS):
            if self.found:
                return
            self.step()


@dataclass(frozen=True)
class Kind:
    """`make` injects the fault, and returns when it began."""

    name: str
    make: Callable[[Scene], HostNs]
    stage: str
    cause: str


@dataclass(frozen=True)
class Outcome:
    """The first incident after a fault."""

    named: str
    off_ms: float
    right: bool


def blamed(kind: Kind, seed: int) -> Outcome:
    """Inject a fault, and judge the incident that follows."""
    with patch("millrace.outlets.pictures.PictureWork", Timed):
        scene = Scene(seed)
        before = list(scene.found)
        at_ns = kind.make(scene)
        scene.wait()
    return outcome((kind.stage, kind.cause), before, at_ns, scene.found)


def outcome(truth: tuple[str, str], before: list[Incident], at_ns: HostNs, found: list[Incident]) -> Outcome:
    """Judge what was found of a fault that began at `at_ns`; nothing should have been found `before`."""
    if before or not found:
        named = f"{before[0].stage}: {before[0].cause} before the fault" if before else "nothing"
        return Outcome(named, float("nan"), False)
    first = found[0]
    off_ns = first.at_ns - at_ns
    right = (first.stage, first.cause) == truth and abs(off_ns) <= WITHIN_NS
    return Outcome(f"{first.stage}: {first.cause}", off_ns / NS_PER_MS, right)


# -- encoders --------------------------------------------------------------------------------------


def encoder_behind(scene: Scene) -> HostNs:
    threads = scene.desk.threads
    threads.takes_ns = scene.some_ms(50, 200) * NS_PER_MS
    threads.computes_ns = threads.takes_ns
    return scene.desk.now_ns


def encoder_starved(scene: Scene) -> HostNs:
    threads = scene.desk.threads
    threads.takes_ns = scene.some_ms(60, 200) * NS_PER_MS
    threads.computes_ns = threads.takes_ns // 10
    return scene.desk.now_ns


def encoder_kept_waiting(scene: Scene) -> HostNs:
    scene.desk.threads.waits_ns, scene.desk.threads.crowded = scene.some_ms(60, 200) * NS_PER_MS, True
    return scene.desk.now_ns


def encoder_fails(scene: Scene) -> HostNs:
    Timed.fails = True
    return scene.desk.now_ns


def encoder_hangs(scene: Scene) -> HostNs:
    scene.desk.threads.hangs = True
    return scene.desk.now_ns


def joined_again_and_again(scene: Scene) -> HostNs:
    at_ns = scene.desk.now_ns
    for _ in range(30):
        joiner = scene.viewer()
        for _ in range(scene.some_ms(2, 5)):
            scene.step()
        joiner.leave()
    return at_ns


# -- the machine -----------------------------------------------------------------------------------


def modes_change(scene: Scene) -> HostNs:
    at_ns = scene.desk.now_ns
    scene.still = True
    for _ in range(24):
        scene.painter.show(scene.some_ms(60, 300), scene.some_ms(60, 300), scene.desk.now_ns)
        scene.run(50)
    return at_ns


def too_large(scene: Scene) -> HostNs:
    """Room for the screen, and none to encode it, even without video."""
    side, budget = scene.some_ms(2_000, 2_400), scene.desk.home.admission.budget
    _tells_no_memory(scene, budget)
    budget.limit = round((budget.held + side * side * 4 + 1_000_000) / PROGRAMS)
    scene.still = True
    scene.painter.show(side, side, scene.desk.now_ns)
    return scene.desk.now_ns


def _tells_no_memory(scene: Scene, budget: Budget) -> None:
    """As a guest does."""

    def refused(what: str, lack: object) -> None:
        scene.diagnosis.report(Symptom("guest", "no memory", "alice", "", {"for": what}))

    budget._refused = refused


def over_reports(scene: Scene) -> HostNs:
    scene.still = True
    whole = Rect(0, 0, scene.painter.pixels.shape[1], scene.painter.pixels.shape[0])
    scene.run(1_500)
    at_ns = scene.desk.now_ns
    for _ in range(80):
        scene.painter.pixels[5:9, 5:6] ^= 255
        scene.painter.screen.painted([whole], scene.desk.now_ns)
        scene.run(STEP_MS)
    return at_ns


class Qemu:
    """A second screen, of a machine over D-Bus."""

    def __init__(self, scene: Scene) -> None:
        self.scene, self.console = scene, FakeConsole()
        home = scene.desk.home
        self.peer = ScreenPeer(1000, os.close)
        control = ConsoleInput(DisplayClient(0, False, 0), 2, lambda: None)
        self.door = QemuScreen(
            home.screens, self.peer, Console(2, "virtio-vga", 0, True), "door/9", control, shared_picture,
            lambda cause, why: home.report(Symptom("screen", cause, "alice", "door/9", {"why": why})),
        )  # fmt: skip
        exchange(self.console, self.peer, self.peer.take)

    def step(self, fds: tuple[int, ...] = ()) -> None:
        """What QEMU has sent arrives."""
        self.peer.receive_fds([os.dup(fd) for fd in fds])
        exchange(self.console, self.peer, lambda: self.door.receive(self.scene.desk.now_ns))
        self.door.publish()
        self.door.receive(self.scene.desk.now_ns)


def unsupported(scene: Scene) -> HostNs:
    qemu = Qemu(scene)
    side = scene.some_ms(32, 64)
    qemu.console.scanout(np.zeros((side, side, 4), np.uint8), RGB565)
    at_ns = scene.desk.now_ns
    qemu.step()
    return at_ns


def memory_shrinks(scene: Scene) -> HostNs:
    qemu = Qemu(scene)
    watch = replace_screen(qemu.door.screen.key)
    fd = os.memfd_create("qemu")
    try:
        os.ftruncate(fd, 64 * 64 * 4)
        qemu.console.scanout_map(fd, 64, 64, 256, 0)
        qemu.step((fd,))
        scene.viewer(watch)
        qemu.step()
        scene.run(200)
        os.ftruncate(fd, scene.some_ms(0, 4_000))
        at_ns = scene.desk.now_ns
        qemu.console.update_map(0, 0, 64, 64)
        qemu.step()
    finally:
        os.close(fd)
    return at_ns


def replace_screen(key: str) -> Watch:
    """As `FULL`, of another screen."""
    return Watch(screen=key, formats=FULL.formats, codecs=FULL.codecs)


def screen_ends(scene: Scene) -> HostNs:
    qemu = Qemu(scene)
    qemu.console.scanout(np.zeros((64, 64, 4), np.uint8))
    qemu.step()
    scene.viewer(replace_screen(qemu.door.screen.key))
    scene.run(200)
    at_ns = scene.desk.now_ns
    scene.desk.home.report(Symptom("screen", "lost", "alice", "door/9", {"why": "it ended"}, inferred=True))
    qemu.door.close()
    return at_ns


def machine_ends(scene: Scene) -> HostNs:
    """The end of its screen is seen before that of the machine."""
    at_ns = screen_ends(scene)
    scene.run(scene.some_ms(0, 40))
    scene.desk.home.report(Symptom("machine", "lost", "alice", "door/9", {"error": "it ended"}))
    return at_ns


def guest_hangs(scene: Scene) -> HostNs:
    scene.still = True
    scene.one.say(TakeKeyboard(True))
    scene.run(500)
    at_ns = scene.desk.now_ns
    for code in range(16, 16 + scene.some_ms(4, 9)):
        scene.one.say(Key(code, True))
        scene.run(60)
        scene.one.say(Key(code, False))
        scene.run(scene.some_ms(40, 200))
    return at_ns


# -- lines -----------------------------------------------------------------------------------------


def line_full(scene: Scene) -> HostNs:
    scene.one.down.path = replace(scene.one.down.path, rate_bps=scene.some_ms(12, 32) * 1_000)
    return scene.desk.now_ns


def line_stalls(scene: Scene) -> HostNs:
    at_ns = scene.desk.now_ns
    end_ns = at_ns + scene.some_ms(400, 900) * NS_PER_MS
    scene.one.down.path = replace(scene.one.down.path, stalls=((at_ns, end_ns),))
    return at_ns


# -- viewers ---------------------------------------------------------------------------------------


def viewer_slow(scene: Scene) -> HostNs:
    scene.one.slow_ns = scene.some_ms(320, 800) * NS_PER_MS
    return scene.desk.now_ns


def viewer_never_acknowledges(scene: Scene) -> HostNs:
    scene.one.acks = False
    return scene.desk.now_ns


def viewer_never_reads(scene: Scene) -> HostNs:
    scene.one.reads = False
    return scene.desk.now_ns


def viewer_stopped(scene: Scene) -> HostNs:
    at_ns = scene.desk.now_ns
    scene.one.reads = False
    for _ in range(scene.some_ms(400, 900) // STEP_MS):
        scene.step()
    scene.one.reads = True
    scene.run(10)
    late_ms = (scene.desk.now_ns - at_ns) / NS_PER_MS
    scene.one.say(Trouble("froze", "viewer", "not run", at_ns, {"late_ms": late_ms}))
    return at_ns


def decoder_fails(scene: Scene) -> HostNs:
    scene.one.say(Refresh(scene.one_of("decoder", "the video can't be decoded", "drawing")))
    return scene.desk.now_ns


def piece_missing(scene: Scene) -> HostNs:
    scene.one.say(Refresh("missing"))
    return scene.desk.now_ns


def no_common_codec(scene: Scene) -> HostNs:
    scene.viewer(Watch(formats=FULL.formats, codecs=scene.one_of([], ["hev1"], ["av01", "vp09"])))
    at_ns = scene.desk.now_ns
    scene.run(20)
    return at_ns


def clock_jumps(scene: Scene) -> HostNs:
    scene.one.off_ns = scene.some_ms(400, 5_000) * NS_PER_MS * scene.one_of(1, -1)
    return scene.desk.now_ns


def sound_too_late(scene: Scene) -> HostNs:
    scene.one.skew_ns = -scene.some_ms(140, 600) * NS_PER_MS
    return scene.desk.now_ns


def picture_behind_sound(scene: Scene) -> HostNs:
    scene.one.skew_ns = scene.some_ms(140, 600) * NS_PER_MS
    return scene.desk.now_ns


def keyboard_taken(scene: Scene) -> HostNs:
    scene.one.say(TakeKeyboard(True))
    scene.run(100)
    scene.other.say(TakeKeyboard(True))
    return scene.desk.now_ns


KINDS = (
    Kind("encoding takes longer than a picture lasts", encoder_behind, "picture", "behind"),
    Kind("the encoder's thread is not scheduled", encoder_starved, "picture", "starved"),
    Kind("all threads are busy with other pictures", encoder_kept_waiting, "picture", "kept waiting"),
    Kind("the encoder fails", encoder_fails, "picture", "failed"),
    Kind("a picture's memory is never released", encoder_hangs, "screen", "held"),
    Kind("a viewer joins again and again", joined_again_and_again, "picture", "key pictures"),
    Kind("the mode changes 20 times a second", modes_change, "screen", "too many modes"),
    Kind("the picture is too large to be encoded", too_large, "guest", "no memory"),
    Kind("the source over-reports its damage", over_reports, "screen", "over-reported"),
    Kind("an unknown pixel format", unsupported, "screen", "not supported"),
    Kind("shared memory is truncated", memory_shrinks, "screen", "memory shrunk"),
    Kind("a screen ends, its machine does not", screen_ends, "screen", "lost"),
    Kind("a machine ends, with its screen", machine_ends, "machine", "lost"),
    Kind("the guest hangs", guest_hangs, "screen", "no reaction"),
    Kind("the line becomes thin", line_full, "send", "line full"),
    Kind("the network stalls", line_stalls, "network", "stalled"),
    Kind("the viewer draws slowly", viewer_slow, "viewer", "slow"),
    Kind("the viewer acknowledges nothing", viewer_never_acknowledges, "viewer", "slow"),
    Kind("the viewer never reads", viewer_never_reads, "viewer", "does not read"),
    Kind("the viewer is stopped", viewer_stopped, "viewer", "not run"),
    Kind("the viewer's decoder errs", decoder_fails, "viewer", "decoder failed"),
    Kind("a piece is missing", piece_missing, "viewer", "missed a piece"),
    Kind("no common codec", no_common_codec, "viewer", "no video"),
    Kind("the viewer's clock jumps", clock_jumps, "viewer", "clock jumped"),
    Kind("the sound is too late to wait for", sound_too_late, "viewer", "ahead of sound"),
    Kind("the picture is later than its sound", picture_behind_sound, "viewer", "behind sound"),
    Kind("the keyboard is taken over", keyboard_taken, "viewer", "keyboard taken"),
)
