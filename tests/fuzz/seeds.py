"""Traffic to begin with: recorded from real programs (`seeds/`, by record.py), and made by the cores in the tree."""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

from millrace.codec.opus import OpusEncoder
from millrace.codec.parameters import CodecParameters
from millrace.codec.settings import CodecSettings
from millrace.dsp.convert import SampleFormat, encode
from millrace.media.packet import WHOLE_KEY, Packet
from millrace.pixels.rects import Rect
from millrace.sim.qemu import FakeQemu, ServerWire
from millrace.sim.rig import Rig
from millrace.sim.signals import sine
from millrace.units import NS_PER_MS
from millrace.wire.native.messages import HEADER as NATIVE_HEADER
from millrace.wire.native.messages import Call, Hello, frame
from millrace.wire.peer import messages as peer
from millrace.wire.peer.tracks import SOUND_TRACK, pack_track
from millrace.wire.pulse.client import record_fields
from millrace.wire.pulse.constants import COOKIE_BYTES, PROTOCOL_VERSION, Command
from millrace.wire.pulse.session import HEADER as PULSE_HEADER
from millrace.wire.pulse.tagstruct import Spec
from millrace.wire.qemu.audio import AudioPeer, DisplayClient
from millrace.wire.qemu.dbus import Message
from millrace.wire.qemu.values import Writer

Session = list[bytes]
RECORDED = Path(__file__).parent / "seeds"


def recorded(wire: str, split: Callable[[bytes], Session]) -> list[Session]:
    """Sessions of a wire as real programs held them."""
    return [split(path.read_bytes()) for path in sorted((RECORDED / wire).glob("*.bin"))]


def by_header(at: int, form: str, header: int) -> Callable[[bytes], Session]:
    """Splits a stream of messages whose header of so many bytes holds the size of the rest at `at`."""

    def split(data: bytes) -> Session:
        out: Session = []
        while len(data) >= header:
            end = header + struct.unpack_from(form, data, at)[0]
            out.append(data[:end])
            data = data[end:]
        return [*out, data] if data else out

    return split


split_pulse = by_header(0, ">I", PULSE_HEADER.size)
split_native = by_header(0, "<I", NATIVE_HEADER.size)


def with_cookie(message: bytes, cookie: bytes) -> bytes:
    """An AUTH with another cookie; other messages as they are."""
    # The tag and the length go along: the length ends with a zero, as the cookie of a seed begins with one.
    begin = b"x" + struct.pack(">I", COOKIE_BYTES)
    at = message.find(begin) + len(begin)
    if at < len(begin) or len(message) < at + COOKIE_BYTES:
        return message
    return message[:at] + cookie + message[at + COOKIE_BYTES :]


def split_lines(data: bytes) -> Session:
    """Lines, with their ends."""
    return data.splitlines(keepends=True)


def split_dbus(data: bytes) -> Session:
    """The lines of the login, then messages."""
    out: Session = []
    while data[:1] not in (b"", b"l", b"B") or data.startswith(b"BEGIN"):
        line, end, data = data.partition(b"\r\n")
        out.append(line + end)
    while len(data) >= 16:
        body, _, fields = struct.unpack_from("<III", data, 4)
        end_at = 16 + fields + -fields % 8 + body
        out.append(data[:end_at])
        data = data[end_at:]
    return [*out, data] if data else out


def split_spice(data: bytes) -> Session:
    """The link's reply, its result, then messages."""
    if len(data) < 20:
        return [data]
    end = 16 + struct.unpack_from("<I", data, 12)[0]
    return [data[:end], data[end : end + 4], *by_header(2, "<I", 6)(data[end + 4 :])]


def split_frames(data: bytes) -> Session:
    """What a WebSocket client's frames hold; one that is cut, or is none of its messages, is left out."""
    out: Session = []
    while len(data) > 6:
        size, at = data[1] & 0x7F, 2
        if size >= 126:
            at = 4 if size == 126 else 10
            size = int.from_bytes(data[2:at], "big")
        mask, payload, kind = data[at : at + 4], data[at + 4 : at + 4 + size], data[0] & 0x0F
        if kind in (1, 2) and len(payload) == size:
            out.append(bytes(byte ^ mask[n % 4] for n, byte in enumerate(payload)))
        data = data[at + 4 + size :]
    return out


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


def _opus(count: int, channels: int) -> list[bytes]:
    encoder, sound = OpusEncoder(channels, CodecSettings()), sine(0.02 * count, channels=channels)
    return [encoder.encode(sound[n * 960 : (n + 1) * 960]) for n in range(count)]


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
    """Listener to daemon: what begins with { is a text frame."""
    mono = CodecParameters(1, "opus", 48_000, ["mono"], 312)
    plain = CodecParameters(1, "s16", 48_000, ["mono"])
    report = peer.Report(1_000_000, 2_000_000, 1, 2, 3, "wav", breakdown={"path": 5, "jitter": 7})
    return [
        [
            _text(peer.Hello(name="seed", settings={"bitrate": "64k"}, microphone=True)),
            _text(peer.Ping(5)),
            _text(report),
            _text(peer.FormatChanged(mono)),
            *_media(_opus(10, 1)),
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
            *_media(_opus(20, 2)),
            _text(peer.Silence(19_200)),
            _text(peer.Configured({"latency": "low"})),
            _text(peer.Microphone(True, True)),
            _text(peer.Ping(5)),
            _text(peer.Fault("settings", "no")),
            _text(peer.Bye()),
        ],
        [welcome, _text(peer.FormatChanged(CodecParameters(1, "s16", 48_000, stereo))), *_media([bytes(3840)] * 20)],
        [welcome, _text(peer.FormatChanged(surround)), *_media(_opus(5, 2))],
        [welcome, _text(peer.FormatChanged(CodecParameters(1, "s16", 48_000, stereo))), *_tracks([bytes(3840)] * 20)],
    ]


# -- machines -----------------------------------------------------------------------------------


def qmp() -> list[Session]:
    """QEMU to its client."""
    greeting = {"QMP": {"version": {"qemu": {"micro": 0, "minor": 2, "major": 9}, "package": ""}, "capabilities": []}}
    lines: list[object] = [greeting, {"return": {}}, {"event": "RESUME", "timestamp": {"seconds": 1}}, {"return": {}}]
    plain = [json.dumps(line).encode() + b"\n" for line in [*lines, {"return": {}}]]
    refusal = json.dumps({"error": {"class": "GenericError", "desc": "no such display"}}).encode() + b"\n"
    return [plain, [plain[0], refusal], *recorded("qmp-server", split_lines)]


def dbus_answer(message: Message) -> tuple[str, bytes]:
    """What a bus, and QEMU behind it, answers."""
    if message.member == "Hello":
        return "s", Writer().text("s", ":1.9").bytes()
    if message.member == "ListQueuedOwners":
        name = Writer().text("s", ":1.2").bytes()
        return "as", Writer().number("u", len(name)).bytes() + name
    if message.member == "GetAll":
        entry = Writer().text("s", "Name").text("g", "s").text("s", "vm").bytes()
        return "a{sv}", Writer().number("u", len(entry)).bytes() + bytes(4) + entry
    return "", b""


@lru_cache(maxsize=2)
def dbus_display(on_bus: bool) -> list[Session]:
    """A bus, or QEMU, to the client that looks for the machine."""
    client, wire, said = DisplayClient(0, on_bus, 0), ServerWire(), [b""]
    registered = False
    for _ in range(12):
        for chunk in client.data_to_send():
            wire.receive(bytes(chunk.data), 0)
        for message in wire.events():
            wire.send_reply(message, *dbus_answer(message))
        for chunk in wire.data_to_send():
            said.append(bytes(chunk.data))
            client.receive(chunk.data, 0)
        if client.events() and not registered:
            registered = True
            client.send_register("Out", 3)
            client.send_register("In", 4)
    return [split_dbus(b"".join(said)), *recorded("dbus-server", split_dbus)]


@lru_cache(maxsize=1)
def dbus_audio() -> list[Session]:
    """QEMU to a listener of its sound."""
    made: list[Session] = []
    for kind in ("Out", "In"):
        qemu, peer_, said = FakeQemu(kind), AudioPeer(0), [b""]

        def exchange(qemu: FakeQemu = qemu, peer_: AudioPeer = peer_, said: list[bytes] = said) -> None:
            for _ in range(4):
                qemu.receive(b"".join(bytes(chunk.data) for chunk in peer_.data_to_send()))
                said.append(qemu.data_to_send())
                peer_.receive(said[-1], 0)
            peer_.events()

        exchange()
        qemu.init()
        qemu.enable(True)
        qemu.volume(False, b"\xff\x80")
        for _ in range(5):
            qemu.write(encode(SampleFormat.S16LE, sine(0.01, channels=2)))
        qemu.read(1920)
        qemu.init(2, 44_100, 1, 32, True, True)
        qemu.fini()
        exchange()
        made.append(split_dbus(b"".join(said)))
    return [*made, *recorded("dbus-audio", split_dbus)]


def spice_reply(key: bytes) -> bytes:
    """The link's reply."""
    body = struct.pack("<I", 0) + key + struct.pack("<IIIII", 1, 1, 178, 0b1011, 0b0110)
    return b"REDQ" + struct.pack("<III", 2, 2, len(body)) + body


def _spice(kind: int, body: bytes) -> bytes:
    return struct.pack("<HI", kind, len(body)) + body


def spice_main() -> list[Session]:
    """A server's main channel, after the link."""
    init = _spice(103, struct.pack("<8I", 7, 1, 0, 0, 0, 0, 5, 6))
    channels = _spice(104, struct.pack("<I6B", 3, 1, 0, 5, 0, 6, 0))
    return [
        [
            _spice(3, struct.pack("<II", 1, 2)),
            init,
            channels,
            _spice(4, bytes(12)),
            _spice(106, bytes(4)),
            _spice(7, bytes(20)),
        ],
        *recorded("spice-main", split_spice),
    ]


def spice_sound() -> list[Session]:
    """A server's playback channel and its record channel, after the link."""
    pcm = encode(SampleFormat.S16LE, sine(0.01, channels=2))
    mode, volume = _spice(102, struct.pack("<IH", 0, 1)), _spice(105, struct.pack("<B2H", 2, 65_535, 100))
    start = _spice(103, struct.pack("<IHII", 2, 1, 48_000, 0))
    data = [_spice(101, struct.pack("<I", n * 10) + pcm) for n in range(6)]
    opus = [_spice(101, struct.pack("<I", n * 20) + payload) for n, payload in enumerate(_opus(6, 2))]
    return [
        [_spice(3, struct.pack("<II", 1, 20)), mode, start, volume, _spice(106, b"\1"), *data, _spice(104, b"")],
        [_spice(102, struct.pack("<IH", 0, 3)), start, *opus, _spice(104, b"")],
        [_spice(101, struct.pack("<IHI", 2, 1, 48_000)), _spice(103, struct.pack("<B2H", 2, 1, 2)), _spice(102, b"")],
    ]


def vnc() -> list[Session]:
    """A server's messages."""
    login = [b"RFB 003.008\n", b"\1\1", bytes(4), struct.pack(">HH16xI", 640, 480, 9) + b"QEMU (vm)"]
    password = [b"RFB 003.008\n", b"\1\2", bytes(16), bytes(4), struct.pack(">HH16xI", 640, 480, 0)]
    refused = [b"RFB 003.008\n", b"\0", struct.pack(">I", 4) + b"busy"]
    tls = [b"RFB 003.008\n", b"\1\x13", b"\0\2", b"\0\1" + struct.pack(">I", 260), b"\1"]
    ack = struct.pack(">BxH", 0, 1) + struct.pack(">HHHHi", 0, 0, 640, 480, -259)
    begin, end = struct.pack(">BBH", 255, 1, 1), struct.pack(">BBH", 255, 1, 0)
    pcm = encode(SampleFormat.S16LE, sine(0.01, channels=2))
    sound = [struct.pack(">BBHI", 255, 1, 2, len(pcm)) + pcm] * 5
    cut, colours = b"\3\0\0\0" + struct.pack(">I", 3) + b"abc", struct.pack(">BxHH", 1, 0, 1) + bytes(6)
    whole = [ack, begin, *sound, b"\2", cut, colours, end]
    made = [[*login, *whole], [*password, *whole], refused, tls]
    return [*made, *recorded("vnc-server", lambda data: [data])]


# -- HTTP -------------------------------------------------------------------------------------------


def _request(line: str, body: object = None, **headers: str) -> bytes:
    content = b"" if body is None else json.dumps(body).encode()
    fields = {"Host": "localhost", **headers} | ({"Content-Length": str(len(content))} if content else {})
    return (
        f"{line} HTTP/1.1\r\n".encode()
        + b"".join(f"{k}: {v}\r\n".encode() for k, v in fields.items())
        + b"\r\n"
        + content
    )


def http(token: str) -> list[Session]:
    """A client's requests: as nobody, and as the principal of a token."""
    known = {"Authorization": f"Bearer {token}"}
    upgrade = {
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
    }
    api = "/api/v1"
    return [
        [_request("GET /health"), _request("GET /"), _request("GET /page/app.js", **{"Accept-Encoding": "gzip"})],
        [
            _request(f"GET {api}/state", **known),
            _request(f"GET {api}/state?guest=victim", Origin="http://localhost", **known),
        ],
        [
            _request(
                f"POST {api}/set",
                {"target": "sink/millrace", "settings": {"volume": "50%"}, "guest": "victim"},
                **known,
            )
        ],
        [_request(f"POST {api}/guests/victim/sinks", {"name": "s", "description": "d"}, **known)],
        [_request(f"POST {api}/tokens", {"may": "see", "expires": "1d", "name": "n"}, **known)],
        [_request(f"POST {api}/links", {"source": "stream/1", "to": "sink/2", "matrix": [[1.0, 0.5]]}, **known)],
        [_request("GET /victim", **upgrade, **known)],
        [_request("GET /api/v1/events?kinds=stream", **upgrade, **known)],
        [_request("GET /victim", **upgrade, **{"Sec-WebSocket-Protocol": f"millrace, millrace.bearer.{token}"})],
        [_request("POST /session", **known, Cookie="millrace=x"), _request("DELETE /session", **known)],
        [_request("GET /metrics", **known)],
        [_request("GET /a/path%1b[2Jlong%0aline", **{"X-Forwarded-For": "::1", "Forwarded": "for=127.0.0.1"})],
        *(
            [re.sub(rb"(Bearer |bearer\.)none", rb"\g<1>" + token.encode(), part)]
            for part in split_http(b"".join(path.read_bytes() for path in sorted((RECORDED / "http").glob("*.bin"))))
        ),
    ]


def split_http(data: bytes) -> Session:
    """Requests without bodies."""
    return [part + b"\r\n\r\n" for part in data.split(b"\r\n\r\n") if part]
