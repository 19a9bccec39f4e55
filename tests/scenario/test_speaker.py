"""Grants are for the program that sends: real processes pass a socket on and then execute another program."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import uvloop

from millrace.client.bus import Bus
from millrace.daemon.app import Daemon
from millrace.errors import RightsError
from millrace.io.peers import program_of
from millrace.rights.grants import ANY, Permission, Verdict
from tests import bus
from tests.places import lack

SLEEP = "/bin/sleep"
ATTACK = """
import os, socket, sys, time
from millrace.errors import RemoteProtocolError
from millrace.wire.native.messages import Call, Fault, Hello, Reply, Welcome
from millrace.wire.native.session import NativeWire
from millrace.wire.pulse.client import Failed, PulseClientSession, Reply as Answer, playback_fields, record_fields
from millrace.wire.pulse.constants import PROTOCOL_VERSION, Command
from millrace.wire.pulse.tagstruct import Spec

door, path, when, what = sys.argv[1:]

class Native:
    def __init__(self):
        self.wire = NativeWire(daemon=False, close_fd=os.close)
    def steps(self):
        yield self.sent(Hello(name="evil"))
        at = "source/microphone" if what == "record" else "sink/default"
        yield self.sent(Call(1, what, {"at": at, "guest": "alice"} | ({"rate": 48000} if what == "play" else {})))
    def sent(self, message):
        self.wire.send_message(message)
        return b"".join(chunk.data for chunk in self.wire.data_to_send())
    def answer(self, data):
        try:
            self.wire.receive(memoryview(data), 0)
        except RemoteProtocolError:  # A reply's descriptors are not taken here.
            return "allowed"
        found = None
        for message, _ in self.wire.events():
            if isinstance(message, (Reply, Welcome)):
                found = "allowed"
            elif isinstance(message, Fault):
                return "refused"
        return found

class Pulse:
    def __init__(self):
        self.wire = PulseClientSession()
    def steps(self):
        yield self.sent(Command.AUTH, version=PROTOCOL_VERSION, cookie=bytes(256))
        yield self.sent(Command.SET_CLIENT_NAME, props={"application.name": b"evil" + bytes(1)})
        spec = Spec(3, 2, 48000)
        if what == "record":
            yield self.sent(Command.CREATE_RECORD_STREAM, **record_fields(spec, (1, 2), source_name="microphone"))
        else:
            yield self.sent(Command.CREATE_PLAYBACK_STREAM, **playback_fields(spec, (1, 2), props={}))
    def sent(self, command, **fields):
        self.wire.send_request(command, fields)
        return self.wire.data_to_send()
    def answer(self, data):
        self.wire.receive(data)
        found = None
        for event in self.wire.events():
            if isinstance(event, Failed):
                return "refused"
            if isinstance(event, Answer):
                found = "allowed"
        return found

speaker = (Native if door == "native" else Pulse)()
sock = socket.socket(socket.AF_UNIX)
sock.settimeout(10)
sock.connect(path)
steps = list(speaker.steps())
if when == "before":
    sock.sendall(b"".join(steps))
if os.fork():
    os.execv("/bin/sleep", ["sleep", "20"])
while os.path.basename(os.readlink(f"/proc/{os.getppid()}/exe")) != "sleep":
    time.sleep(0.002)
verdict = ""
for step in steps:
    try:
        if when == "after":
            sock.sendall(step)
        found = None
        while found is None:
            data = sock.recv(65536)
            found = speaker.answer(data) if data else "refused"
    except OSError:
        found = "refused"
    verdict = found
    if verdict == "refused":
        break
print(verdict, flush=True)
"""


# The same event loop as `serve`, because the way it reads matters here.
running = partial(bus.running, run=uvloop.run)


@pytest.mark.parametrize("what", ["record", "play"])
@pytest.mark.parametrize("when", ["after", "before"])
@pytest.mark.parametrize("door", ["native", "pulse"])
def test_process_that_executes_granted_program_has_no_grant(door: str, when: str, what: str, tmp_path: Path) -> None:
    """The process connects, leaves the socket to a child, and executes the other program before it is identified.
    `before`: everything is sent before that, and the child only reads."""

    async def test(daemon: Daemon) -> None:
        guest = daemon.worker.guest("alice")
        for permission in (Permission.MICROPHONE, Permission.CONNECT)[: 1 if what == "record" else 2]:
            guest.admission.grants.set(permission, ANY, Verdict.DENY)
            guest.admission.grants.set(permission, "sleep", Verdict.ALLOW)
        path = guest.native_path if door == "native" else guest.pulse.path
        evil = subprocess.Popen(
            [sys.executable, "-c", ATTACK, door, str(path), when, what], stdout=subprocess.PIPE, text=True
        )
        try:
            # This blocks the daemon's loop, so nothing is accepted meanwhile and the attacker always wins the race.
            while os.path.basename(os.readlink(f"/proc/{evil.pid}/exe")) != "sleep":
                time.sleep(0.002)
                assert evil.poll() is None
            assert evil.stdout is not None
            assert (await asyncio.to_thread(evil.stdout.readline)).strip() == "refused"
            assert not guest.graph.streams and not guest.pulse.door.records and not guest.native.records
        finally:
            evil.kill()
            evil.wait()
            assert evil.stdout is not None
            evil.stdout.close()

    if os.path.basename(os.path.realpath(SLEEP)) != "sleep":
        lack("a sleep that is a program of its own")
    running(tmp_path, test)


def test_program_that_speaks_for_itself_has_its_grant(tmp_path: Path) -> None:
    async def test(daemon: Daemon) -> None:
        guest, own = daemon.worker.guest("alice"), program_of(os.getpid())
        for permission in (Permission.CONNECT, Permission.MICROPHONE):
            guest.admission.grants.set(permission, ANY, Verdict.DENY)
            guest.admission.grants.set(permission, own, Verdict.ALLOW)
        async with Bus(guest.native_path, "t", "") as bus, bus.record("source/microphone", guest="alice"):
            assert len(guest.native.records) == 1
            guest.admission.grants.set(Permission.MICROPHONE, own, None)
            with pytest.raises(RightsError):
                async with bus.record("source/microphone", guest="alice"):
                    pass

    running(tmp_path, test)
