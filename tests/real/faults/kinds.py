"""The kinds of fault: how each is injected, and which stage and cause its first incident must name."""

from __future__ import annotations

import http.client
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from millrace.wire.pulse.client import playback_fields
from millrace.wire.pulse.constants import Command
from millrace.wire.pulse.tagstruct import Spec
from tests.real.conftest import need, need_root, wait_for
from tests.real.faults import daemon as switches
from tests.real.faults.scene import HERE, LiveSource, Scene, now_ns
from tests.real.test_faults import greeted

HOG_S = 0.15
HOG = """
import os, sys, time
os.sched_setaffinity(0, {int(sys.argv[1])})
os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(50))
end = time.monotonic() + float(sys.argv[2])
print(time.monotonic_ns(), flush=True)
while time.monotonic() < end: pass
"""


@dataclass(frozen=True)
class Kind:
    """`make` injects the fault and returns its time in ns of the host's clock; `scene` is the kind of scene it needs.

    `also` lists the incidents that the same fault causes besides its own.
    """

    name: str
    make: Callable[[Scene], int]
    stage: str
    cause: str
    scene: str = "plain"
    also: tuple[tuple[str, str], ...] = ()


# -- applications ------------------------------------------------------------------------------


def client_stopped(scene: Scene) -> int:
    return scene.stop(scene.player.pid, 0.6)


def client_late(scene: Scene) -> int:
    # With small requests, so that pacat writes what has arrived and does not let it wait in the pipe.
    sound = ("--raw", "--rate=48000", "--format=s16le", "--channels=2")
    command = ["pacat", *sound, "--latency-msec=60", "--process-time-msec=5"]
    pacat = scene.bus.spawn(*command, bufsize=0, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL)
    # Sound that is written before pacat has started would stay in the pipe for ever.
    wait_for(lambda: any(one["application"] == "pacat" for one in scene.guest()["streams"]), what="pacat is there")
    source = LiveSource(pacat.stdin)
    source.start()
    time.sleep(1.5)
    source.pause(0.5)
    wait_for(lambda: source.paused, 5, "the source pauses")
    time.sleep(0.8)
    pacat.kill()
    pacat.wait()
    return source.paused


def native(scene: Scene) -> subprocess.Popen[bytes]:
    """Start a native client that plays."""
    where = str(scene.bus.pulse().with_name("native"))
    player = scene.bus.spawn(
        sys.executable, str(HERE / "player.py"), where, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert player.stdout is not None and player.stdout.readline() == b"playing\n"
    time.sleep(1.0)
    return player


def native_told(scene: Scene, number: int) -> int:
    player = native(scene)
    assert player.stdout is not None
    player.send_signal(number)
    at = int(player.stdout.readline())
    time.sleep(0.6)
    player.kill()
    player.wait()
    return at


def native_corrupts(scene: Scene) -> int:
    return native_told(scene, signal.SIGUSR2)


def native_stopped(scene: Scene) -> int:
    player = native(scene)
    at = scene.stop(player.pid, 0.6)
    player.kill()
    player.wait()
    return at


def client_overflows(scene: Scene) -> int:
    sock, wire = greeted(scene.bus)
    fields = playback_fields(Spec(3, 2, 48_000), (1, 2), maxlength=19200, tlength=9600, corked=True)
    wire.send_request(Command.CREATE_PLAYBACK_STREAM, fields)
    sock.sendall(wire.data_to_send())
    time.sleep(0.3)
    wire.send_block(0, bytes(38400))
    at = now_ns()
    sock.sendall(wire.data_to_send())
    time.sleep(0.3)
    sock.close()
    return at


def garbage(path: Path) -> int:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(str(path))
        at = now_ns()
        sock.sendall(b"\xff" * 4096)
        time.sleep(0.3)
    return at


def recorder_unread(scene: Scene) -> int:
    with (scene.folder / "raw").open("wb") as out:
        wide = ("--format=float32le", "--rate=96000", "--channels=8")
        recorder = scene.bus.spawn("parec", "--raw", "--latency-msec=50", *wide, stdout=out)
    wait_for(lambda: scene.guest()["recorders"], what="it records")
    time.sleep(1.0)
    at = scene.stop(recorder.pid, 4.0)
    recorder.kill()
    recorder.wait()
    return at


# -- the daemon and its machine --------------------------------------------------------------------


def starved(scene: Scene) -> int:
    """Processes with real-time priority take every processor."""
    need_root()
    hogs = [
        subprocess.Popen([sys.executable, "-c", HOG, str(cpu), str(HOG_S)], stdout=subprocess.PIPE)
        for cpu in sorted(os.sched_getaffinity(0))
    ]
    began = [int(hog.communicate(timeout=10)[0]) for hog in hogs]
    return max(began)


def not_kept(scene: Scene) -> int:
    """Writes to files fail, as if the disk were full."""
    soft, hard = resource.prlimit(scene.daemon, resource.RLIMIT_FSIZE)
    resource.prlimit(scene.daemon, resource.RLIMIT_FSIZE, (1, hard))
    try:
        at = now_ns()
        scene.bus.call("POST", "/api/v1/guests/default/sinks", {"name": f"more{at}"})
    finally:
        resource.prlimit(scene.daemon, resource.RLIMIT_FSIZE, (soft, hard))
    return at


def other_codec(scene: Scene) -> int:
    one = scene.guest()["listeners"][0]
    codec = "s16" if one["settings"]["codec"] == "opus" else "opus"
    at = now_ns()
    scene.bus.call("POST", "/api/v1/set", {"target": one["id"], "settings": {"codec": codec}})
    return at


# -- listeners ---------------------------------------------------------------------------------------


def listener_stopped(scene: Scene) -> int:
    return scene.stop(scene.listener.pid, 0.8)


def listener_killed(scene: Scene) -> int:
    at = now_ns()
    scene.listener.kill()
    scene.listener.wait()
    return at


def _websocket(scene: Scene) -> socket.socket:
    host, _, port = scene.bus.listen.rpartition(":")
    sock = socket.create_connection((host, int(port)))
    key = "x3JJHMbDL1EzLkh9GBhXDw=="
    head = f"GET /default HTTP/1.1\r\nHost: {scene.bus.listen}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    head += f"Authorization: Bearer {scene.bus.key}\r\n"
    sock.sendall(f"{head}Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode())
    sock.recv(4096)
    return sock


def _masked(text: bytes) -> bytes:
    return bytes((0x81, 0x80 | len(text))) + bytes(4) + text


def listener_reads_nothing(scene: Scene) -> int:
    sock = _websocket(scene)
    at = now_ns()
    sock.sendall(_masked(b'{"type":"hello","name":"lazy","settings":{"codec":"f32"}}'))
    time.sleep(6)
    sock.close()
    return at


def listener_garbage(scene: Scene) -> int:
    sock = _websocket(scene)
    at = now_ns()
    sock.sendall(_masked(b"nonsense"))
    time.sleep(0.3)
    sock.close()
    return at


def slow_network(scene: Scene) -> int:
    """Afterwards the listener's target delay is so high that a repetition would be inaudible, so it is restarted."""
    at = scene.fail("thin 0.6")
    time.sleep(1.5)
    scene.listener.terminate()
    scene.listener.wait(10)
    return at


def server_stopped(scene: Scene) -> int:
    return scene.stop(scene.server.pid, 0.5)


def server_killed(scene: Scene) -> int:
    at = now_ns()
    scene.server.kill()
    scene.server.wait()
    time.sleep(0.5)
    return at


# -- machines ----------------------------------------------------------------------------------------


def machine_stopped(scene: Scene) -> int:
    return scene.stop(scene.machine.pid, 0.5)


def machine_killed(scene: Scene) -> int:
    at = now_ns()
    scene.machine.kill()
    scene.machine.wait()
    return at


# -- rights ------------------------------------------------------------------------------------------


def wrong_token(scene: Scene) -> int:
    at = now_ns()
    connection = http.client.HTTPConnection(scene.bus.listen, timeout=10)
    connection.request("GET", "/api/v1/state", headers={"Authorization": "Bearer wrong-wrong-wrong-wrong"})
    assert connection.getresponse().status == 401
    connection.close()
    return at


def no_grant(scene: Scene) -> int:
    """Returns the time at which parec ended, since that is when it was refused."""
    need("parec")
    rule = {"guest": "default", "what": "microphone"}
    scene.bus.call("POST", "/api/v1/guests/default/grants", rule | {"allow": False})
    command = ["parec", "--raw", "-d", "microphone"]
    subprocess.run(command, env=scene.bus.env, capture_output=True, timeout=10)
    ended = now_ns()
    # Other faults of this scene record.
    scene.bus.call("POST", "/api/v1/guests/default/grants", rule | {"allow": None})
    return ended


KINDS = (
    Kind("an application is stopped (paplay)", client_stopped, "client", "stopped"),
    Kind("an application's source pauses (pacat)", client_late, "client", "wrote late"),
    Kind("a native client is stopped", native_stopped, "client", "stopped", "silent"),
    Kind("a native client pauses", lambda s: native_told(s, signal.SIGUSR1), "client", "wrote late", "silent"),
    Kind("a native client corrupts its ring", native_corrupts, "client", "ring corrupted", "silent"),
    Kind("an application writes more than its buffer", client_overflows, "client", "too much"),
    Kind("garbage to PulseAudio's socket", lambda s: garbage(s.bus.pulse()), "client", "broke the protocol"),
    Kind("garbage to the native socket", lambda s: garbage(s.bus.pulse().with_name("native")), "client",
         "broke the protocol"),
    Kind("a recorder is stopped (parec)", recorder_unread, "recorder", "does not read"),
    Kind("the daemon is stopped", lambda s: s.stop(s.daemon, 0.3), "loop", "not run"),
    Kind("others take every processor", starved, "loop", "starved"),
    Kind("the daemon is busy otherwise", lambda s: s.switch(switches.BUSY), "loop", "busy"),
    Kind("a mix takes too long", lambda s: s.switch(switches.MIX), "cycle", "overran"),
    Kind("an encoder takes too long", lambda s: s.switch(switches.ENCODE), "encoder", "slow"),
    Kind("the wall clock is set", lambda s: s.switch(switches.CLOCK), "clock", "jumped"),
    Kind("the disk takes nothing", not_kept, "store", "can't write"),
    Kind("another codec is chosen", other_codec, "encoder", "changed"),
    Kind("the listener is stopped", listener_stopped, "listener", "not run"),
    Kind("the listener is killed", listener_killed, "listener", "left"),
    Kind("a listener sends nonsense", listener_garbage, "listener", "broke the protocol"),
    Kind("a listener reads nothing", listener_reads_nothing, "send", "line full", also=(("listener", "left"),)),
    Kind("packets are lost", lambda s: s.fail("drop 5"), "network", "packets lost"),
    Kind("the network stalls", lambda s: s.fail("stall 0.4"), "network", "stalled", "line"),
    Kind("the network is too slow", slow_network, "network", "late", "line"),
    Kind("the sound server is stopped (PulseAudio)", server_stopped, "device", "late", "device"),
    Kind("the sound server is killed (PulseAudio)", server_killed, "device", "lost", "device"),
    Kind("the microphone's network stalls", lambda s: s.fail("upstall 0.4"), "microphone", "late", "microphone"),
    Kind("a virtual machine is stopped (QEMU)", machine_stopped, "machine", "late", "machine"),
    Kind("a virtual machine is killed (QEMU)", machine_killed, "machine", "lost", "machine"),
    Kind("a wrong token", wrong_token, "rights", "refused"),
    Kind("a program without a grant (parec)", no_grant, "rights", "refused"),
)  # fmt: skip
