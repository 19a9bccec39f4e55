"""Seed traffic of clients: PulseAudio's protocol, the native one, listeners and viewers."""

from __future__ import annotations

import struct
from functools import lru_cache

from millrace.codec.parameters import CodecParameters
from millrace.dsp.convert import SampleFormat
from millrace.media.packet import WHOLE_KEY, Packet
from millrace.pixels.rects import Rect
from millrace.sim.rig import Rig
from millrace.units import NS_PER_MS
from millrace.wire.native.messages import Call, Hello, frame
from millrace.wire.peer import messages as peer
from millrace.wire.peer import pictures as view
from millrace.wire.peer.clips import ClipboardState, Copied, Paste, pack_clip
from millrace.wire.peer.pictures import Part, PartType, Piece, encode_picture_message, pack_piece
from millrace.wire.peer.tracks import SOUND_TRACK, pack_track
from millrace.wire.pulse.client import record_fields
from millrace.wire.pulse.constants import COOKIE_BYTES, PROTOCOL_VERSION, Command
from millrace.wire.pulse.tagstruct import Spec
from tests.fuzz.seeds import ZSTD_FRAME, Session, opus_packets, recorded, split_frames, split_native, split_pulse
from tests.watch import clip


def with_cookie(message: bytes, cookie: bytes) -> bytes:
    """An AUTH with its cookie replaced; other messages are returned unchanged."""
    # Find the cookie by the tag and the length before it: the length ends with a zero byte, so a search for the zeros
    # at the beginning of a seed's cookie would match one byte too early.
    begin = b"x" + struct.pack(">I", COOKIE_BYTES)
    at = message.find(begin) + len(begin)
    if at < len(begin) or len(message) < at + COOKIE_BYTES:
        return message
    return message[:at] + cookie + message[at + COOKIE_BYTES :]


# -- PulseAudio ------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def pulse() -> tuple[list[Session], list[Session]]:
    """(client to server, server to client)."""
    rig = Rig()
    client = rig.client(login=False)
    said: list[bytes] = []
    heard: list[bytes] = []
    carry, back = client.wire.data_to_send, client.server.data_to_send

    def to_server() -> bytes:
        data = carry()
        said.append(data)
        return data

    def to_client() -> bytes:
        data = back()
        heard.append(data)
        return data

    client.wire.data_to_send, client.server.data_to_send = to_server, to_client  # type: ignore[method-assign]
    client.send(Command.AUTH, version=PROTOCOL_VERSION, cookie=bytes(COOKIE_BYTES))
    client.send(Command.SET_CLIENT_NAME, props={"application.name": b"seed\0"})
    client.send(Command.SUBSCRIBE, mask=0xFFF)
    spec = Spec(SampleFormat.S16LE, 2, 48_000)
    player = client.play(spec, (1, 2), bytes(range(256)) * 100)
    recorder = client.ask(Command.CREATE_RECORD_STREAM, **record_fields(spec, (1, 2), source_name="millrace.monitor"))
    client.send(Command.CREATE_UPLOAD_STREAM, name="bell", spec=spec, map=(1, 2), length=4096, props={})
    client.wire.send_block(2, bytes(4096))
    client.send(Command.FINISH_UPLOAD_STREAM, channel=2)
    client.send(Command.PLAY_SAMPLE, sink_index=0xFFFFFFFF, sink_name=None, volume=0x10000, name="bell", props={})
    for command in (
        Command.GET_SERVER_INFO,
        Command.GET_SINK_INFO_LIST,
        Command.GET_SINK_INPUT_INFO_LIST,
        Command.GET_SOURCE_INFO_LIST,
        Command.GET_CLIENT_INFO_LIST,
        Command.STAT,
    ):
        client.send(command)
    client.send(Command.GET_PLAYBACK_LATENCY, channel=player.channel, time=(1, 2))
    client.send(
        Command.LOAD_MODULE, name="module-null-sink", argument="sink_name=one sink_properties=device.description=O"
    )
    client.send(Command.SET_SINK_INPUT_VOLUME, index=player.index, volume=(0x8000, 0x8000))
    client.send(Command.MOVE_SINK_INPUT, index=player.index, sink_index=0xFFFFFFFF, sink_name="one")
    client.send(Command.UPDATE_CLIENT_PROPLIST, mode=2, props={"a": b"b\0"})
    rig.run(0.1)
    client.send(Command.CORK_PLAYBACK_STREAM, channel=player.channel, cork=True)
    client.send(Command.DELETE_RECORD_STREAM, channel=recorder["channel"])
    client.send(Command.DELETE_PLAYBACK_STREAM, channel=player.channel)
    made = [split_pulse(b"".join(said))], [split_pulse(b"".join(heard))]
    return made[0] + recorded("pulse-client", split_pulse), made[1] + recorded("pulse-server", split_pulse)


# -- the native protocol and the peer protocol ------------------------------------------------


def native() -> list[Session]:
    """Client to daemon."""
    calls = [
        Call(1, "state", {}),
        Call(2, "watch", {"kinds": ["stream"]}),
        Call(9, "drain", {"stream": 1}),
        Call(3, "play", {"guest": "victim", "name": "n", "rate": 48_000, "channels": 2, "format": "f32le"}),
        Call(4, "record", {"guest": "victim", "at": "source/microphone", "rate": 48_000, "channels": 1}),
        Call(5, "set", {"target": "sink/millrace", "settings": {"volume": "50%"}}),
        Call(6, "claim", {"name": "policy"}),
        Call(7, "sink.add", {"guest": "victim", "name": "two"}),
        Call(8, "explain", {"target": "stream/1"}),
        Call(10, "close", {"stream": 1}),
        Call(11, "incidents", {}),
        Call(12, "recall", {"prefix": ""}),
    ]
    return [[frame(Hello(name="seed")), *map(frame, calls)], *recorded("native-client", split_native)]


def _media(payloads: list[bytes], frames: int = 960) -> list[bytes]:
    return [
        peer.pack_media(1, frames, n, n * frames, n * frames * 1_000_000 // 48, payload)
        for n, payload in enumerate(payloads)
    ]


def _tracks(payloads: list[bytes]) -> list[bytes]:
    step_ns, region = 20 * NS_PER_MS, Rect(0, 16, 64, 16)
    packets = [
        Packet(n, 1, n * step_ns, n * step_ns, step_ns, 0, WHOLE_KEY, payload) for n, payload in enumerate(payloads)
    ]
    picture = Packet(0, 1, step_ns, 0, step_ns, 0, WHOLE_KEY, bytes(64), region)
    together = [pack_track(SOUND_TRACK, packet, follows=packet.number % 2 == 1) for packet in packets]
    return [pack_track(1, picture), *together]


def _text(message: peer.FromListener | peer.FromDaemon) -> bytes:
    return peer.encode_message(message).encode()


@lru_cache(maxsize=1)
def peer_listener() -> list[Session]:
    """Listener to daemon: messages that begin with { are text frames."""
    mono = CodecParameters(1, "opus", 48_000, ["mono"], 312)
    plain = CodecParameters(1, "s16", 48_000, ["mono"])
    report = peer.Report(1_000_000, 2_000_000, 1, 2, 3, "wav", breakdown={"path": 5, "jitter": 7})
    return [
        [
            _text(peer.Hello(name="seed", settings={"bitrate": "64k"}, microphone=True)),
            _text(peer.Ping(5)),
            _text(report),
            _text(peer.FormatChanged(mono)),
            *_media(opus_packets(10, 1)),
            _text(peer.Silence(9_600)),
            _text(peer.Configure({"codec": "s16", "latency": "low", "frame": "10ms"})),
            _text(peer.Trouble("underrun", "network", "stalled", 5, {"late_ms": 3.0})),
            _text(peer.Bye("done")),
        ],
        [_text(peer.Hello(microphone=True)), _text(peer.FormatChanged(plain)), *_media([bytes(1920)] * 10)],
        [_text(peer.Hello(tracks=True)), _text(peer.Ping(5)), _text(report), _text(peer.Bye("done"))],
        *recorded("peer-listener", split_frames),
    ]


@lru_cache(maxsize=1)
def peer_daemon() -> list[Session]:
    """Daemon to listener."""
    stereo = ["front-left", "front-right"]
    surround = CodecParameters(1, "opus", 48_000, ["a", "b", "c"], 312, 2, 1, [0, 1, 2], [0, 2, 1])
    welcome = _text(peer.Welcome(1, "g", "s", {"codec": "opus"}))
    return [
        [
            welcome,
            _text(peer.FormatChanged(CodecParameters(1, "opus", 48_000, stereo, 312))),
            *_media(opus_packets(20, 2)),
            _text(peer.Silence(19_200)),
            _text(peer.Configured({"latency": "low"})),
            _text(peer.Microphone(True, True)),
            _text(peer.Ping(5)),
            _text(peer.Fault("settings", "no")),
            _text(peer.Bye()),
        ],
        [welcome, _text(peer.FormatChanged(CodecParameters(1, "s16", 48_000, stereo))), *_media([bytes(3840)] * 20)],
        [welcome, _text(peer.FormatChanged(surround)), *_media(opus_packets(5, 2))],
        [welcome, _text(peer.FormatChanged(CodecParameters(1, "s16", 48_000, stereo))), *_tracks([bytes(3840)] * 20)],
    ]


def _told(message: view.FromViewer | view.ToViewer) -> bytes:
    return encode_picture_message(message).encode()


@lru_cache(maxsize=1)
def viewer() -> list[Session]:
    """Viewer to daemon."""
    watch = view.Watch(name="seed", codecs=["avc1"], formats=["zstd", "png"], settings={"fps": "30"}, listener=7)
    typed = [view.Key(0x1E, True), view.Key(0x1E, False), view.Pointer(5, 7, 1), view.Pointer(-3, 0, 0, True)]
    told = [
        watch, peer.Ping(5), view.TakeKeyboard(True), *typed, view.SizeWish(800, 600), view.Text("ä"),
        view.Shown(0, 5, 7, None, 1), view.Refresh("decoder failed"), view.Hidden(True), view.Hidden(False),
        view.ChangeView({"picture": "2M", "scale": "0.5"}, 7), view.Taken(0, 2), view.TakeKeyboard(False),
        peer.Trouble("late", "network", "stalled", 5, {"late_ms": 3.0}), peer.Bye("done"),
    ]  # fmt: skip
    pasted = [_told(message) for message in (watch, view.TakeKeyboard(True), Copied(1), Paste(1))]
    pasted += [*pack_clip(clip(1, b"text")), _told(Copied(0))]
    return [[_told(message) for message in told], [_told(view.Watch(keyboard=True)), _told(view.Shown(0))], pasted]


# A picture of each type of part, whole and in two pieces, before and after a change of mode.
@lru_cache(maxsize=1)
def view_daemon() -> list[Session]:
    """Daemon to viewer."""
    at, whole = Rect(2, 1, 3, 2), Rect(0, 0, 8, 6)
    drawn = (
        Part(PartType.RAW, at, bytes(24)), Part(PartType.ZSTD, at, ZSTD_FRAME), Part(PartType.MOVE, at, dx=-2, dy=1),
        Part(PartType.PALETTE, at, bytes((1, *range(6))) + b"\x80" * at.height),
        Part(PartType.JPEG, at, b"\xff\xd8"), Part(PartType.PNG, at, b"\x89PNG"), Part(PartType.VIDEO, at, b"\0\0\1"),
        Part(PartType.DRAW, whole),
    )  # fmt: skip
    shape = pack_piece(Piece(0, 1, (Part(PartType.SHAPE, Rect(1, 1, 2, 2), bytes(16), 7),)))
    watching = _told(view.Watching(3, "g", "screen/1", "QEMU", {"picture": "auto"}, True))
    screens = _told(view.Screens([view.ScreenNamed("screen/1", "QEMU", 8, 6)]))
    return [
        [
            watching, screens, _told(view.ModeChanged(8, 6, 1)), shape, _told(view.CursorChanged(7, 1, 2, 1, 1)),
            pack_piece(Piece(1, 1, drawn, key=True, painted_ns=5)),
            _told(view.KeyboardHeld(False, "viewer/4")), _told(peer.Configured({"picture": "2M"})),
            pack_piece(Piece(2, 1, drawn[:2], last=False)), pack_piece(Piece(2, 1, drawn[2:])),
            _told(peer.Ping(5)), _told(peer.Fault("settings", "no")), _told(view.Gone("left")), _told(peer.Bye()),
        ],
        [
            watching, _told(view.ModeChanged(8, 6, 1)), pack_piece(Piece(1, 1, drawn[:1], last=False)),
            _told(view.ModeChanged(8, 6, 2)), pack_piece(Piece(2, 2, drawn[:1], key=True)),
        ],
        [watching, _told(ClipboardState(True, 1)), _told(Paste(1)), *pack_clip(clip(1, b"text"))],
    ]  # fmt: skip
