"""A daemon under mutated traffic at every door of one guest, with another guest whose sound is judged.

`python -m bench fuzz --minutes 30`, or `python -m tests.fuzz.live [SECONDS] [SEED]`; exits with 1 on any finding.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from millrace.client.pulse import PulsePlayer
from millrace.errors import MillraceError
from tests.fuzz import verdicts
from tests.fuzz.attackers import Attacker, Handing, Http, Native, Pulse, View, WebSocket, tcp, unix
from tests.fuzz.farends import FarEnds
from tests.ports import free_port

MILLRACE = [sys.executable, "-m", "millrace.cli.main"]
GROWTH_MAX_KIB = 384 * 1024
"""How much the daemon may grow: the guest's budget, and what its allocator keeps."""
ANSWER_MAX_S = 10.0
AFTERWARDS_S = 30.0
"""By then nothing may be left of clients that have disconnected."""
THEIRS = ("connection", "listener", "viewer", "watcher", "answer")
"""Memory that is freed with its client; sinks, samples and modules stay."""
DESCRIPTORS_MORE_MAX = 60
"""Descriptors of the innocent guest and of the machines, which go on."""
BAD_LINE = re.compile(r"internal error|^Traceback|^[\w.]+(Error|Exception)\b|^(ERROR|CRITICAL) asyncio")
FORGED = re.compile(r"^forged|[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
CONFIG = """
[guest.innocent]
[guest.victim]
pulse_tcp = ["127.0.0.1:{port}"]
"""


@dataclass
class Outcome:
    """The result of a run."""

    seed: int
    seconds: float = 0.0
    counts: dict[str, dict[str, int]] = field(default_factory=dict)
    innocent: dict[str, Any] = field(default_factory=dict)
    grown_kib: int = 0
    slowest_answer_s: float = 0.0
    descriptors: tuple[int, int] = (0, 0)
    findings: list[str] = field(default_factory=list)


class Bench:
    """One daemon with its attackers and its innocent guest."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.outcome = folder, Outcome(seed)
        self.env = os.environ | {n: str(folder) for n in ("XDG_RUNTIME_DIR", "XDG_CONFIG_HOME", "XDG_STATE_HOME")}
        for name in ("PULSE_SERVER", "MILLRACE_TOKEN"):
            self.env.pop(name, None)
        self.log = folder / "log"
        (folder / "config.toml").write_text(CONFIG.format(port=free_port()))
        self._out = (folder / "out").open("wb")
        command = [*MILLRACE, "serve", "--listen", "127.0.0.1:0", "--config", str(folder / "config.toml")]
        self.daemon = subprocess.Popen(command, env=self.env, stdout=self._out, stderr=self.log.open("wb"))
        self.runtime = folder / "millrace"
        self._wait_ready()
        self.address = self._cli("ls", "--json")["listen"]
        self.owner = (self.runtime / "key").read_text().strip()
        self.began_kib = self.memory_kib()
        self.descriptors = self._descriptors()

    def _wait_ready(self) -> None:
        ends = time.monotonic() + 30
        while b"ready" not in (self.folder / "out").read_bytes():
            if self.daemon.poll() is not None or time.monotonic() > ends:
                raise RuntimeError(f"the daemon did not start: {self.log.read_text()}")
            time.sleep(0.05)

    def _cli(self, *words: str) -> Any:
        done = subprocess.run([*MILLRACE, *words], env=self.env, capture_output=True, text=True, check=True)
        return json.loads(done.stdout) if "--json" in words else done.stdout.strip()

    def memory_kib(self) -> int:
        """The daemon's resident memory."""
        for line in Path(f"/proc/{self.daemon.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS"):
                return int(line.split()[1])
        return 0

    def _descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.daemon.pid}/fd"))

    def call(self, method: str, path: str, body: object = None, timeout_s: float = ANSWER_MAX_S) -> Any:
        """Make a request as the owner."""
        data = None if body is None else json.dumps(body).encode()
        headers = {"Authorization": f"Bearer {self.owner}", "Content-Type": "application/json"}
        request = urllib.request.Request(f"http://{self.address}{path}", data, headers, method=method)
        with urllib.request.urlopen(request, timeout=timeout_s) as answer:
            return json.load(answer)

    def attackers(self, stop: threading.Event) -> list[Attacker]:
        """A hostile client for each door."""
        host, _, port = self.address.rpartition(":")
        web = tcp(host, int(port))
        may = "see,hear,speak,watch,type,control,link"
        token = self._cli("token", "new", "--guest", "victim", "--may", may, "--name", "fuzz")
        pulse_port = int(re.findall(r"127.0.0.1:(\d+)\"\]", (self.folder / "config.toml").read_text())[0])
        seed, victim = self.outcome.seed, self.runtime / "victim"
        made: list[Attacker] = [
            Pulse("pulse unix", unix(victim / "pulse"), seed, stop),
            Pulse("pulse tcp", tcp("127.0.0.1", pulse_port), seed + 1, stop),
            Native("native", unix(victim / "native"), seed + 2, stop),
            Http("http", web, seed + 3, stop),
            WebSocket("websocket", web, seed + 4, stop),
            View("viewer", web, seed + 5, stop),
            Handing("attach.sock", unix(self.runtime / "attach.sock"), seed + 6, stop),
        ]
        for one in made:
            if isinstance(one, Http):
                one.token = token
            elif isinstance(one, Pulse):
                one.cookie = (victim / "cookie").read_bytes()
        return made

    def watch(self) -> None:
        """Check that the daemon runs and answers."""
        began = time.monotonic()
        if self.daemon.poll() is not None:
            self.outcome.findings.append(f"the daemon ended with {self.daemon.returncode}")
            return
        try:
            self.call("GET", "/health")
        except OSError as error:
            self.outcome.findings.append(f"no answer within {ANSWER_MAX_S:.0f} s: {error}")
        self.outcome.slowest_answer_s = max(self.outcome.slowest_answer_s, time.monotonic() - began)
        self._watch_doors()
        self.outcome.grown_kib = max(self.outcome.grown_kib, self.memory_kib() - self.began_kib)

    def _watch_doors(self) -> None:
        try:
            (victim,) = self.call("GET", "/api/v1/state?guest=victim")["guests"]
        except OSError as error:
            self.outcome.findings.append(f"the state was not told within {ANSWER_MAX_S:.0f} s: {error}")
            return
        wrong = {verdicts.door(door) for door in victim["doors"]} - {"", *self.outcome.findings}
        self.outcome.findings += sorted(wrong)

    def innocent_incidents(self) -> list[str]:
        """The incidents of the innocent guest: they include stalls of the machine itself."""
        found = self.call("GET", "/api/v1/incidents?guest=innocent")
        return [f"{one['stage']}, {one['cause']} ({one['count']}): {one['evidence']}" for one in found]

    def judge_rest(self) -> None:
        """Check, once all clients and machines are gone, that nothing of them is left and that their guest can play."""
        for door in self.call("GET", "/api/v1/state?guest=victim")["guests"][0]["doors"]:
            self.call("DELETE", f"/api/v1/doors/{door['id'].removeprefix('door/')}")
        ends = time.monotonic() + AFTERWARDS_S
        while (left := self._left()) and time.monotonic() < ends:
            time.sleep(0.5)
        self.outcome.findings += [f"afterwards: {one}" for one in left]
        self.outcome.descriptors = (self.descriptors, self._descriptors())
        try:
            asyncio.run(_play(self.runtime / "victim" / "pulse"))
        except (OSError, MillraceError) as error:
            self.outcome.findings.append(f"afterwards nothing can be played: {error!r}")

    def _left(self) -> list[str]:
        (victim,) = self.call("GET", "/api/v1/state?guest=victim")["guests"]
        left = [f"{victim['clients']} clients"] if victim["clients"] else []
        held = {what: size for what, size in victim["memory"]["for"].items() if what in THEIRS}
        left += [f"memory for {held}"] if held else []
        more = self._descriptors() - self.descriptors
        return [*left, f"{more} descriptors more"] if more > DESCRIPTORS_MORE_MAX else left

    def judge_log(self) -> None:
        """Check that the log has no internal error, and no forged line or escape sequence."""
        text = self.log.read_bytes() + (self.folder / "out").read_bytes()
        for line in text.decode("utf-8", "backslashreplace").split("\n"):
            if BAD_LINE.search(line) or FORGED.search(line):
                self.outcome.findings.append(f"log: {line[:400]!r}")

    def stop(self) -> None:
        """Stop the daemon as a service manager would."""
        self.daemon.terminate()
        try:
            code = self.daemon.wait(30)
        except subprocess.TimeoutExpired:
            self.daemon.kill()
            code = -9
        if code != 0:
            self.outcome.findings.append(f"the daemon ended with {code} when it was asked to")


async def _play(path: Path) -> None:
    """Play a quarter of a second to its end."""
    async with asyncio.timeout(20):
        player = await PulsePlayer.connect(path, "afterwards")
        await player.play(np.zeros((12_000, 2), np.float32), 48_000)


def run(seconds: float, seed: int, folder: Path) -> Outcome:
    """Fuzz for so long."""
    bench = Bench(folder, seed)
    outcome = bench.outcome
    ends = FarEnds(folder, seed)
    stop, incidents = threading.Event(), list[str]()
    innocent = subprocess.Popen(
        [sys.executable, "-m", "tests.fuzz.innocent", str(bench.runtime / "innocent" / "pulse"),
         f"ws://{bench.address}/innocent"],
        env=bench.env | {"MILLRACE_TOKEN": bench.owner}, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    try:
        for door in ends.doors:
            bench.call("POST", "/api/v1/guests/victim/doors", {"door": door, "password": "secret"})
        attackers = bench.attackers(stop)
        time.sleep(2)
        began = time.monotonic()
        for attacker in attackers:
            attacker.start()
        while time.monotonic() - began < seconds and bench.daemon.poll() is None:
            time.sleep(min(2.0, seconds))
            bench.watch()
        outcome.seconds = round(time.monotonic() - began, 1)
        stop.set()
        for attacker in attackers:
            attacker.join(10)
            outcome.counts[attacker.name] = dict(attacker.counts)
            outcome.findings += attacker.findings
            if attacker.is_alive():
                outcome.findings.append(f"{attacker.name}: its last session takes more than 10 s")
        outcome.counts |= {kind: {"sessions": n} for kind, n in ends.sessions().items()}
        time.sleep(1)
        bench.watch()
        if bench.daemon.poll() is None:
            incidents = bench.innocent_incidents()
            bench.judge_rest()
    finally:
        out, _ = innocent.communicate(timeout=30)
        ends.close()
        bench.stop()
    outcome.innocent = json.loads(out.splitlines()[-1]) if out else {"failed": ["it said nothing"]}
    outcome.innocent["incidents"] = incidents
    bench.judge_log()
    _judge(outcome)
    return outcome


def _judge(outcome: Outcome) -> None:
    heard = outcome.innocent
    if heard.get("wrong") or heard.get("failed") or heard.get("frames", 0) < (outcome.seconds - 1) * 48_000:
        outcome.findings.append(f"the innocent guest: {heard}")
    if outcome.grown_kib > GROWTH_MAX_KIB:
        outcome.findings.append(f"the daemon grew by {outcome.grown_kib // 1024} MiB")


def shown(outcome: Outcome) -> str:
    """The outcome as text."""
    total: Counter[str] = Counter()
    for counts in outcome.counts.values():
        total.update({key: n for key, n in counts.items() if key in ("sessions", "messages")})
    spoken = f"{total['sessions']} sessions, {total['messages']} messages"
    lines = [f"seed {outcome.seed}, {outcome.seconds:.0f} s: {spoken}"]
    for name, counts in outcome.counts.items():
        lines.append(f"  {name}: {', '.join(f'{key} {n}' for key, n in counts.items())}")
    heard = outcome.innocent
    lines.append(f"innocent guest: {heard.get('frames')} frames heard, {heard.get('wrong')} of them wrong")
    lines.append(
        f"daemon: grown by {outcome.grown_kib // 1024} MiB at most, slowest answer {outcome.slowest_answer_s:.2f} s,"
        f" descriptors {outcome.descriptors[0]} before and {outcome.descriptors[1]} after"
    )
    lines += [f"FOUND {finding}" for finding in outcome.findings[:40]] or ["nothing was found"]
    return "\n".join(lines)


def main(seconds: float, seed: int) -> int:
    """Fuzz, and print the outcome; if anything was found, the log is kept."""
    with tempfile.TemporaryDirectory(prefix="mrfuzz") as name:
        outcome = run(seconds, seed, Path(name))
        print(shown(outcome), flush=True)
        if outcome.findings:
            kept = Path(tempfile.gettempdir()) / f"millrace-fuzz-{seed}.log"
            kept.write_bytes((Path(name) / "log").read_bytes())
            print(f"the daemon's log: {kept}")
    return 1 if outcome.findings else 0


if __name__ == "__main__":
    given = sys.argv[1:]
    sys.exit(main(float(given[0]) if given else 60.0, int(given[1]) if len(given) > 1 else time.time_ns() % 2**31))
