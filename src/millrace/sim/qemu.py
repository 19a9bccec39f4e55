"""QEMU's end of a D-Bus audio listener, in memory: sends what QEMU sends, and parses the replies."""

from __future__ import annotations

from millrace.units import HostNs
from millrace.wire.chunk import Chunk
from millrace.wire.qemu.dbus import ERROR, DBusWire, Message
from millrace.wire.qemu.values import Writer

OUT_PATH, IN_PATH = "/org/qemu/Display1/AudioOutListener", "/org/qemu/Display1/AudioInListener"
PROPERTIES = "org.freedesktop.DBus.Properties"
_STEPS = (
    (b"\0AUTH EXTERNAL ", b"OK 0123456789abcdef\r\n"),
    (b"NEGOTIATE_UNIX_FD", b"AGREE_UNIX_FD\r\n"),
    (b"BEGIN", b""),
)


class ServerWire(DBusWire):
    """The authenticating end of a connection."""

    def __init__(self) -> None:
        super().__init__(0)
        self._out.clear()
        self._server_steps = list(_STEPS)

    def _line(self) -> bool:
        end = self._buffer.find(b"\r\n")
        if end < 0:
            return False
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 2]
        expected, answer = self._server_steps.pop(0)
        assert line.startswith(expected), line
        if answer:
            self._out.append(Chunk(bytearray(answer)))
        if not self._server_steps:
            self.ready = True
            self._out += self._held
            self._held.clear()
        return True


class FakeQemu:
    """One registered listener, from QEMU's side; `kind` is Out or In."""

    def __init__(self, kind: str = "Out") -> None:
        self.wire = ServerWire()
        self.answers: list[bytes] = []
        self.properties = False
        self._path = OUT_PATH if kind == "Out" else IN_PATH
        self._interface = f"org.qemu.Display1.Audio{kind}Listener"
        body = Writer().text("s", self._interface).bytes()
        self._asked = self.wire.send_call(self._path, PROPERTIES, "GetAll", "s", body)

    def receive(self, data: bytes, now_ns: HostNs = 0) -> None:
        """Bytes from the listener."""
        self.wire.receive(data, now_ns)
        for message in self.wire.events():
            self._answered(message)

    def _answered(self, message: Message) -> None:
        assert message.kind != ERROR, message.values()
        if message.reply_to == self._asked:
            self.properties = True
        elif message.signature == "ay":
            self.answers.append(message.values()[0])

    def data_to_send(self) -> bytes:
        """Bytes to the listener."""
        return b"".join(bytes(chunk.data) for chunk in self.wire.data_to_send())

    def _call(self, member: str, signature: str, body: bytes) -> None:
        self.wire.send_call(self._path, self._interface, member, signature, body)

    def init(
        self, id_: int = 1, rate: int = 48_000, channels: int = 2, bits: int = 16, signed: bool = True,
        floating: bool = False, big: bool = False,
    ) -> None:  # fmt: skip
        """Open a voice."""
        frame = bits // 8 * channels
        w = Writer().number("t", id_).number("y", bits).number("b", signed).number("b", floating).number("u", rate)
        w.number("y", channels).number("u", frame).number("u", frame * rate).number("b", big)
        self._call("Init", "tybbuyuub", w.bytes())

    def enable(self, on: bool, id_: int = 1) -> None:
        """The guest's card starts or stops."""
        self._call("SetEnabled", "tb", Writer().number("t", id_).number("b", on).bytes())

    def volume(self, mute: bool, volume: bytes, id_: int = 1) -> None:
        """The guest's mixer changes."""
        self._call("SetVolume", "tbay", Writer().number("t", id_).number("b", mute).blob(volume).bytes())

    def write(self, data: bytes, id_: int = 1) -> None:
        """The guest plays."""
        self._call("Write", "tay", Writer().number("t", id_).blob(data).bytes())

    def read(self, size: int, id_: int = 1) -> None:
        """The guest records."""
        self._call("Read", "tt", Writer().number("t", id_).number("t", size).bytes())

    def fini(self, id_: int = 1) -> None:
        """Close a voice."""
        self._call("Fini", "t", Writer().number("t", id_).bytes())
