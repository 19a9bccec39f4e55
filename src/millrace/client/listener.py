"""The listener as a library: connect, play, report, reconnect.

listener = Listener("ws://127.0.0.1:8642/default", make_output("wav:out.wav", "normal"))
await listener.run()
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from functools import partial
from typing import cast

import aiohttp

from millrace.backends.base import ClockedOutput, FileOutput, PacketOutput
from millrace.client import dialler, endpoint
from millrace.client.blame import Verdict
from millrace.client.dropouts import PULSE_NS, Dropouts
from millrace.client.fileplayer import FilePlayer
from millrace.client.micuplink import MicrophoneUplink
from millrace.client.notices import Notice, NoticeLimiter, unnoticed
from millrace.client.options import ListenerOptions
from millrace.client.outputs import InLoop
from millrace.clock.heard import HeardClock
from millrace.clock.jitter import PICTURE_FIRST, asked_of_daemon, profile_of
from millrace.codec.parameters import CodecParameters
from millrace.codec.settings import show_settings
from millrace.dsp.convert import Samples
from millrace.errors import ConfigError, OutputLost, PeerLost
from millrace.io.clock import now_ns
from millrace.io.messages import MessageRunner
from millrace.media.audio import AudioPacket
from millrace.playout.adaptive import State
from millrace.playout.playout import Playout
from millrace.text import printable, quoted, show_measured
from millrace.units import NS_PER_S, HostNs, MediaNs
from millrace.wire.peer.messages import (
    Bye,
    Configure,
    Configured,
    Fault,
    FormatChanged,
    FromListener,
    Hello,
    Microphone,
    Report,
    Silence,
    Trouble,
    Welcome,
)
from millrace.wire.peer.session import ListenerEvent, PeerClient

log = logging.getLogger("millrace.listener")

REPORT_S = 0.5
REPORT_QUIET_S = 5.0
"""How often an unchanged report is sent: a thousand idle listeners should cost nothing."""


class Ended(Exception):
    """The daemon ended the session for good."""


# The playout and the output outlive a connection: after a reconnect the same device goes on, with what was measured
# of its clock. The output pulls from a thread of its own, so playout and dropouts are used under `_lock`.
class Listener:
    """One listener of one guest."""

    def __init__(
        self, url: str, output: ClockedOutput | FileOutput | PacketOutput, options: ListenerOptions | None = None,
        on_event: Notice = unnoticed, on_welcome: Callable[[int], None] = lambda number: None,
    ) -> None:  # fmt: skip
        """`on_welcome` is called with its number whenever it is connected, before any sound is played."""
        self.url, self.output, self.on_event, self.on_welcome = url, output, on_event, on_welcome
        self.options = options or ListenerOptions()
        if not endpoint.is_listeners(url):
            raise ConfigError(f"{quoted(url)}: listeners connect to ws://HOST:PORT/GUEST or wss://HOST:PORT/GUEST")
        profile_of(self.options.latency)
        self.format: CodecParameters | None = None
        self.welcome: Welcome | None = None
        self.settings: dict[str, str | int | bool] = {}
        self.connections = 0
        self._lock = threading.Lock()
        self._playout: Playout | None = None
        self._clocked = cast(ClockedOutput, output) if hasattr(output, "start") else None
        self._writer: FilePlayer | None = None
        self._file: FilePlayer | PacketOutput | None = None
        if hasattr(output, "set_format"):
            self._file = cast(PacketOutput, output)
        elif not self._clocked:
            self._file = self._writer = FilePlayer(cast(FileOutput, output))
        self._output_lost: OutputLost | None = None
        self._output_latency_ns: HostNs = 0
        self._heard = HeardClock()
        self._age_ns = 0.0
        """The age of the next frame at the output's last pull, without the offset between the clocks."""
        self._joined = ""
        """The text of the session's "joined" event, sent once its output is open."""
        self._dropouts, self._notices = Dropouts(), NoticeLimiter()
        self._wire: PeerClient | None = None
        self._runner: MessageRunner | None = None
        self._dialler = dialler.Dialler(url, self.options)
        self.ended = ""
        """Why the daemon has ended the session for good."""
        self.lost: PeerLost | None = None
        """Why the last connection failed or ended."""
        self._stopping = asyncio.Event()
        self._uplink = MicrophoneUplink(self.options.microphone) if self.options.microphone else None

    # -- running -------------------------------------------------------------------------------

    def stop(self) -> None:
        """Make `run` return soon."""
        self._stopping.set()

    async def run(self) -> None:
        """Play until `stop`, or until the daemon ends the session for good.

        Reconnects by itself. Raises RightsError if access is denied, ConfigError if the output can't be used,
        OutputLost if it takes no more, and RemoteProtocolError if the other side is not Millrace.
        """
        tries = 0
        if self._uplink is not None:
            self._uplink.start()
        try:
            while not self._stopping.is_set():
                before = self.connections
                try:
                    await self._session()
                except Ended as ended:
                    self.ended = str(ended)
                    return
                except (TimeoutError, aiohttp.ClientError, OSError, PeerLost) as error:
                    self.lost = endpoint.given_up(self.url, self.options, error, self.connections > 0)
                    if not self.options.reconnect:
                        raise self.lost from None
                    if self.connections != before or tries == 0:
                        self.on_event(*endpoint.setback(self.url, self.options, error, self.connections > 0))
                self._passed(now_ns())
                tries = 0 if self.connections != before else tries + 1
                await dialler.pause(self._stopping, tries)
        finally:
            if self._uplink is not None:
                self._uplink.stop()
            self._close_output()
        if self._output_lost is not None:
            raise self._output_lost

    def output_ended(self, why: OutputLost | None) -> None:
        """See `OutputWatch`; in the loop."""
        self._output_lost = why
        self.stop()

    async def _session(self) -> None:
        async with self._dialler.connected() as websocket:
            await self._talk(websocket)

    async def _talk(self, websocket: aiohttp.ClientWebSocketResponse) -> None:
        opts = self.options
        hello = Hello(
            name=opts.name,
            settings=opts.settings,
            latency=opts.latency,
            sink=opts.sink,
            microphone=self._uplink is not None,
        )
        wire = self._wire = PeerClient(hello, now_ns())
        lost = asyncio.Event()
        runner = self._runner = MessageRunner(wire, partial(dialler.write, websocket), lambda error: lost.set())
        closing = [dialler.closing(websocket, due) for due in (self._stopping, lost)]
        work = [runner.run(), self._reports(wire), self._pulse(), *closing]
        if self._uplink is not None:
            work.append(self._uplink.send_on(websocket))
        tasks = [asyncio.create_task(one) for one in work]
        try:
            async for message in websocket:
                if message.type not in (aiohttp.WSMsgType.TEXT, aiohttp.WSMsgType.BINARY):
                    break
                now = now_ns()
                wire.receive(message.data, now)
                for event in wire.events():
                    self._handle(event, now)
                self._passed(now)
                runner.flush()
        finally:
            self._wire = self._runner = None
            for task in tasks:
                task.cancel()
            if self._uplink is not None:
                self._uplink.hush()
            self._apart()
        if not self._stopping.is_set():
            raise PeerLost("the connection ended")

    async def _reports(self, wire: PeerClient) -> None:
        """Send reports: when something has changed, and every `REPORT_QUIET_S` otherwise."""
        last, quiet_for = Report(), 0.0
        while True:
            await asyncio.sleep(REPORT_S)
            report = self.report()
            quiet_for += REPORT_S
            if wire.welcome is not None and (report != last or quiet_for >= REPORT_QUIET_S):
                self._say(report)
                last, quiet_for = report, 0.0

    def _say(self, message: FromListener) -> None:
        if self._wire is not None and self._runner is not None:
            self._wire.send_message(message)
            self._runner.flush()

    # -- incoming --------------------------------------------------------------------------------

    def _handle(self, event: ListenerEvent, now: HostNs) -> None:
        if isinstance(event, AudioPacket):
            with self._lock:
                if self._playout is not None:
                    self._playout.push(event, now)
                    length_ns = event.frames * NS_PER_S // self._playout.rate
                    self._dropouts.blame.arrived(now, length_ns, event.sequence, event.follows)
                elif self._file is not None:
                    self._file.push(event, now)
        elif isinstance(event, FormatChanged):
            self._set_format(event.format)
        elif isinstance(event, Silence):
            self._silence()
        elif isinstance(event, Welcome):
            self.welcome = event
            self.settings = event.settings
            self.connections += 1
            with self._lock:
                if self._playout is not None and self.connections > 1:
                    self._playout.rejoined()
                    self._heard.forget()
            self.on_welcome(event.listener)
            self._joined = f"listener/{event.listener} hears {event.guest}, sink {event.sink}"
        elif isinstance(event, Configured):
            self.settings = event.settings
            self._set_latency(str(event.settings.get("latency", "")))
            self._notices(self.on_event, "settings", show_settings(event.settings))
        elif isinstance(event, Microphone):
            if self._uplink is not None:
                self._uplink.told(event, now, lambda text: self._notices(self.on_event, "microphone", text))
        elif isinstance(event, Fault):
            self._fault(event)
        elif isinstance(event, Bye):
            self._silence()
            if not event.again:
                # Not rate-limited: the user must see why it ended.
                self.on_event("ended", printable(event.reason))
                raise Ended(event.reason)

    def _fault(self, fault: Fault) -> None:
        if fault.fatal:
            raise endpoint.ending(fault.code, fault.message)
        self._notices(self.on_event, "error", fault.message)

    def _silence(self) -> None:
        with self._lock:
            self._dropouts.blame.silence()
            if self._playout is not None:
                self._playout.silence()
            elif self._file is not None:
                self._file.silence()

    def _apart(self) -> None:
        """The connection is over."""
        self._silence()
        with self._lock:
            self._dropouts.blame.apart()
        if self._writer is not None:
            self._writer.apart()

    def _passed(self, now: HostNs) -> None:
        if self._writer is not None:
            self._writer.passed(now)

    def _set_latency(self, latency: str) -> None:
        """The listener's latency profile was changed."""
        if not latency or latency == self.options.latency:
            return
        try:
            profile = profile_of(latency)
        except ConfigError as error:
            self._notices(self.on_event, "error", str(error))
            return
        self.options.latency = latency
        with self._lock:
            if self._playout is not None:
                self._playout.pace.jitter.change(profile)

    def _set_format(self, fmt: CodecParameters) -> None:
        self.format = fmt
        if self._writer is not None:
            self._writer.begin(now_ns())
        if self._file is not None:
            self._file.set_format(fmt)
        else:
            self._set_playout(fmt)
        joined, self._joined = self._joined, ""
        if joined:
            self.on_event("joined", joined)
        self.on_event("format", f"{fmt.codec}, {fmt.rate} Hz, {len(fmt.positions)} channels")

    def _set_playout(self, fmt: CodecParameters) -> None:
        first = self._playout is None
        with self._lock:
            self._dropouts.blame.silence()
            if self._playout is None:
                self._playout = Playout(fmt.rate, tuple(fmt.positions), self.options.latency)
            self._playout.set_format(fmt)
        if first:
            # Outside the lock: a device may pull before its start returns.
            self._start_output(self._playout)

    def _start_output(self, playout: Playout) -> None:
        assert self._clocked is not None
        watch = InLoop(asyncio.get_running_loop(), self)
        self._output_latency_ns = self._clocked.start(playout.rate, playout.positions, self._pull, watch)

    def _pull(self, out: Samples) -> None:
        """Called from the output's thread."""
        with self._lock:
            playout = self._playout
            if playout is None:
                return
            now = now_ns()
            self._age_ns = now - playout.head_ns
            if playout.state is State.PLAYING:
                self._heard.pulled(now, playout.head_ns, self._output_latency_ns)
            self._dropouts.pull(playout, out, now)

    @property
    def number(self) -> int | None:
        """The number that the daemon gave it; None before."""
        return None if self.welcome is None else self.welcome.listener

    @property
    def picture_first(self) -> bool:
        """Whether no picture waits for this sound: with the latency profile for games."""
        return asked_of_daemon(self.options.latency) == PICTURE_FIRST

    def heard_ns(self, now: HostNs) -> MediaNs | None:
        """The capture time, on the daemon's clock, of what is heard now; None without sound, and for files."""
        with self._lock:
            return self._heard.at(now)

    def device_still(self, still: bool) -> None:
        """See `OutputWatch`; in the loop."""
        self.on_event("device", f"{self.output.name} asks for {'nothing; waiting' if still else 'sound again'}")

    def device_lost(self, at_ns: HostNs, what: str) -> None:
        """See `OutputWatch`; in the loop."""
        with self._lock:
            self._dropouts.gone(at_ns)
        self.on_event("device", f"{self.output.name} {what}")

    def device_back(self) -> None:
        """See `OutputWatch`; in the loop."""
        with self._lock:
            self._dropouts.blame.back(now_ns())
        self.on_event("device", f"{self.output.name} is open again")

    async def _pulse(self) -> None:
        """Check that this program is scheduled on time, and report the causes of dropouts to the daemon."""
        while True:
            await asyncio.sleep(PULSE_NS / NS_PER_S)
            now = now_ns()
            with self._lock:
                verdicts = self._dropouts.pulse(self._playout, now)
            for verdict in verdicts:
                self._say(self._trouble(verdict, now))

    def _trouble(self, verdict: Verdict, now: HostNs) -> Trouble:
        offset = self._offset_ns(now)
        at = 0 if offset is None else verdict.at_ns + offset
        measured = f" [{show_measured(verdict.evidence)}]" if verdict.evidence else ""
        self.on_event("trouble", f"{verdict.stage}, {verdict.cause}{measured}")
        return Trouble("underrun", verdict.stage, verdict.cause, at, verdict.evidence)

    def _offset_ns(self, now: HostNs) -> HostNs | None:
        """The daemon's clock minus this one. Once playout has locked, its estimate of the drift is used."""
        if self._wire is None or self._playout is None:
            return None
        pace = self._playout.pace
        return self._wire.keepalive.clock.offset_ns(now, pace.media.rate if pace.locked else 0.0)

    def _close_output(self) -> None:
        if self._writer is not None:
            self._writer.close(now_ns())
        elif self._file is not None:
            cast(PacketOutput, self._file).close()
        elif self._clocked is not None and self._playout is not None:
            self._clocked.stop()

    # -- outgoing --------------------------------------------------------------------------------

    def configure(self, changes: dict[str, str]) -> None:
        """Change settings during playback."""
        self.options.settings.update({name: text for name, text in changes.items() if name != "latency"})
        self._say(Configure(changes))

    def report(self) -> Report:
        """The current latency, fill and error counts."""
        out = Report(output=self.output.name)
        with self._lock:
            playout = self._playout
            if playout is not None:
                offset = self._offset_ns(now_ns())
                if offset is not None and playout.state is State.PLAYING:
                    out.latency_ns = max(0, round(self._age_ns + offset + self._output_latency_ns))
                    out.breakdown = self._breakdown(playout, offset)
                out.fill_ns = playout.fill_ns
                out.underruns, out.lost = playout.tally.underruns, playout.lost_packets
                out.skipped, out.concealed = playout.tally.left_out_frames, playout.tally.concealed
                out.target_ns, out.locked = round(playout.pace.target_delay_ns), playout.pace.locked
                out.drift_ppm = round((1.0 / playout.pace.ratio - 1.0) * 1e6, 1)
            elif self._file is not None:
                out.lost = self._file.lost_packets
        return out

    def _breakdown(self, playout: Playout, offset: HostNs) -> dict[str, HostNs]:
        """The latency by stage."""
        captured = now_ns() + offset
        parts = playout.pace.parts_ns() | {
            "path": playout.pace.media.map().forward(captured) + offset - captured, "late": playout.late_ns,
            "device": self._output_latency_ns,
        }  # fmt: skip
        rtt = self._wire.keepalive.clock.rtt_ns if self._wire is not None else None
        return {name: round(ns) for name, ns in parts.items()} | {"network": 0 if rtt is None else rtt // 2}

    @property
    def playout(self) -> Playout | None:
        """The playout of a clocked output; None before the first sound, and for files."""
        return self._playout

    @property
    def played_s(self) -> float:
        """Seconds of sound played or written."""
        player = self._playout or self._file
        if player is None or self.format is None:
            return 0.0
        rate = player.rate if isinstance(player, Playout) else self.format.rate
        return player.played_frames / rate


__all__ = ["NS_PER_S", "Listener", "ListenerOptions"]
