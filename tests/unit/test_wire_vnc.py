"""RFB with QEMU's audio: authentication, sound, and the treatment of wrong or hostile servers."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millrace.errors import LoginRefused, PasswordRefused, PeerLost, RemoteProtocolError
from millrace.io.crypto import vnc_answer
from millrace.wire.clips import ClipOffered
from millrace.wire.vnc.client import VncClient
from millrace.wire.vnc.messages import (
    COMPRESSED,
    PLAIN,
    AudioBegin,
    AudioData,
    AudioEnd,
    Ready,
    SoundOffered,
    TlsWanted,
)
from tests.fuzz import seeds
from tests.watch import words

VERSION = b"RFB 003.008\n"
INIT = struct.pack(">HH16xI", 640, 480, 9) + b"QEMU (vm)"
ACK = struct.pack(">BxH", 0, 1) + struct.pack(">HHHHi", 0, 0, 640, 480, -259)
FORMAT_AND_ENABLE = struct.pack(">BBHBBI", 255, 1, 2, 3, 2, 48_000) + struct.pack(">BBH", 255, 1, 0)


def client(password: str = "") -> VncClient:
    return VncClient(48_000, 2, password, lambda challenge, text: text.encode().ljust(16, b"."), 0)


def ready() -> VncClient:
    vnc = client()
    vnc.receive(VERSION + b"\x01\x01" + bytes(4) + INIT + ACK, 0)
    assert vnc.events() == [Ready("vm"), SoundOffered()] and vnc.sound
    vnc.data_to_send()
    return vnc


def test_sound_and_its_format_are_requested_without_password() -> None:
    vnc = client()
    for byte in VERSION + b"\x02\x01\x05" + bytes(4) + INIT + ACK:
        vnc.receive(bytes((byte,)), 0)
    assert vnc.events() == [Ready("vm"), SoundOffered()] and vnc.sound
    set_encodings = struct.pack(">BxHi", 2, 1, -259)
    assert vnc.data_to_send() == VERSION + b"\x01" + b"\x01" + set_encodings + FORMAT_AND_ENABLE


@pytest.mark.parametrize(
    ("sent", "name"), [(b"xd\xe9mineur", "xdémineur"), ("桌面".encode(), "桌面"), (b"\xff\xfe", "ÿþ"), (b"", "")]
)
def test_name_of_a_desktop_is_utf8_or_else_latin_1(sent: bytes, name: str) -> None:
    vnc = client()
    vnc.receive(VERSION + b"\x01\x01" + bytes(4) + struct.pack(">HH16xI", 640, 480, len(sent)) + sent + ACK, 0)
    assert vnc.events()[0] == Ready(name)


def test_sound_arrives_between_begin_and_end_among_other_messages() -> None:
    vnc = ready()
    audio = struct.pack(">BBH", 255, 1, 2) + struct.pack(">I", 4) + b"pcm!"
    begin, end = struct.pack(">BBH", 255, 1, 1), struct.pack(">BBH", 255, 1, 0)
    bell, cut = b"\x02", b"\x03\0\0\0" + struct.pack(">I", 3) + b"abc"
    colours = struct.pack(">BxHH", 1, 0, 1) + bytes(6)
    vnc.receive(begin + bell + audio + cut + colours + end, 0)
    assert vnc.events() == [AudioBegin(), AudioData(b"pcm!"), ClipOffered(True, words("abc")), AudioEnd()]


def test_password_answers_the_challenge() -> None:
    vnc = client("geheim")
    vnc.receive(VERSION + b"\x01\x02" + bytes(16), 0)
    assert vnc.data_to_send() == VERSION + b"\x02" + b"geheim".ljust(16, b".")


def test_challenge_response_is_des_with_reversed_key_bits() -> None:
    # `openssl enc -des-ecb -nopad -K 0e86ceceeef64e26` of eight zeros: that key is "password", bits reversed.
    assert vnc_answer(bytes(16), "password").hex() == 2 * "ff97502e9422f089"
    assert vnc_answer(bytes(16), "password and what is beyond eight") == vnc_answer(bytes(16), "password")


@pytest.mark.parametrize(
    ("said", "hint"),
    [
        (b"SSH-2.0-Open\n", "not a VNC"),
        (b"RFB 003.002\n", "speaks RFB 3.2; 3.3 is needed"),
        (b"RFB three.3\n", "not a VNC"),
        (
            b"RFB 003.003\n" + struct.pack(">II", 0, 26) + b"Too many security failures",
            "refused: Too many security fail",
        ),
        (b"RFB 003.003\n" + struct.pack(">I", 16), "wants Tight, which is not supported"),
        (b"RFB 003.003\n" + struct.pack(">I", 2) + bytes(16), "--password-file"),
        (VERSION + b"\0" + struct.pack(">I", 4) + b"full", "full"),
        (VERSION + b"\x01\x02" + bytes(16), "--password-file"),
        (VERSION + b"\x02\x10\x1e", "no supported authentication, but Tight, a user name and password \\(Apple\\)"),
        (b"RFB 003.007\n\x01\x13", "no supported authentication, but type 19"),
        (
            VERSION + b"\x01\x13" + b"\0\2" + b"\0\x01" + struct.pack(">I", 256),
            "offers a user name and password .Plain. only$",
        ),
        (VERSION + b"\x01\x01" + struct.pack(">II", 1, 5) + b"wrong", "wrong"),
        (
            VERSION + b"\x01\x13" + b"\0\2" + b"\0\x01" + struct.pack(">I", 257),
            "offers anonymous TLS only; give it a cert",
        ),
    ],
    ids=[
        "ssh",
        "old",
        "no version",
        "locked out",
        "unknown to 3.3",
        "password for 3.3",
        "refused",
        "password",
        "unknown",
        "no TLS for 3.7",
        "plain",
        "failed",
        "anonymous",
    ],
)
def test_refusing_server_is_explained(said: bytes, hint: str) -> None:
    with pytest.raises(RemoteProtocolError, match=hint):
        client().receive(said, 0)


def test_wrong_password_is_told_apart_from_other_refusals() -> None:
    vnc = client("geheim")
    vnc.receive(VERSION + b"\x01\x02" + bytes(16), 0)
    with pytest.raises(PasswordRefused, match=r"rejected the password \(no\)"):
        vnc.receive(struct.pack(">II", 1, 2) + b"no", 0)
    with pytest.raises(RemoteProtocolError, match="it gives no reason") as other:
        client("geheim").receive(VERSION + b"\x01\x01" + struct.pack(">II", 1, 0), 0)
    assert not isinstance(other.value, PasswordRefused)


@pytest.mark.parametrize(("version", "answer"), [(3, 3), (4, 3), (5, 3), (6, 3), (7, 7), (8, 8), (889, 8)])
def test_old_servers_are_answered_in_their_version(version: int, answer: int) -> None:
    """RFC 6143, 7.1.1 and appendix A."""
    said, spoken = b"RFB 003.%03d\n" % version, b"RFB 003.%03d\n" % answer
    chosen = [b"" if answer == 3 else bytes((kind,)) for kind in (1, 2)]
    offered = [struct.pack(">I", kind) if answer == 3 else bytes((1, kind)) for kind in (1, 2)]
    open_, secret = client(), client("geheim")
    open_.receive(said + offered[0] + (bytes(4) if answer == 8 else b""), 0)
    assert open_.data_to_send() == spoken + chosen[0] + b"\1" and open_.joining, "no result without a password"
    secret.receive(said + offered[1] + bytes(16), 0)
    assert secret.data_to_send() == spoken + chosen[1] + b"geheim".ljust(16, b".")
    secret.receive(bytes(4), 0)
    assert secret.data_to_send() == b"\1" and secret.joining
    for vnc in (open_, secret):
        vnc.receive(INIT + ACK, 0)
        assert vnc.events() == [Ready("vm"), SoundOffered()]


@pytest.mark.parametrize(("result", "said"), [(1, "rejected the password$"), (2, "password .too many attempts.$")])
def test_old_servers_give_no_reason(result: int, said: str) -> None:
    for offer in (b"RFB 003.003\n" + struct.pack(">I", 2), b"RFB 003.007\n\x01\x02"):
        with pytest.raises(PasswordRefused, match=said):
            client("geheim").receive(offer + bytes(16) + struct.pack(">I", result), 0)


def test_server_that_disconnects_before_its_screen_is_detected() -> None:
    vnc = client()
    vnc.receive(VERSION + b"\x01\x01", 0)
    assert not vnc.joining
    vnc.receive(bytes(4), 0)
    assert vnc.joining
    vnc.receive(INIT, 0)
    assert not vnc.joining


@pytest.mark.parametrize("injected", [b"", bytes(4)])
def test_data_before_tls_is_not_taken_for_the_servers(injected: bytes) -> None:
    """Anyone on the path can inject it, and it would be read as if it had arrived inside TLS."""
    vnc = VncClient(48_000, 2, "", lambda asked, text: b"", 0)
    for part in seeds.vnc()[3]:
        vnc.receive(part, 0)
    assert vnc.events() == [TlsWanted()]
    if injected:
        with pytest.raises(RemoteProtocolError, match="before the TLS handshake"):
            vnc.receive(injected, 0)
    else:
        vnc.tls_begins()
        vnc.receive(bytes(4), 0)
        vnc.tls_ready()
        vnc.receive(b"", 0)
        assert vnc.joining


def test_tls_starts_before_password_and_continues_inside() -> None:
    vnc = client("geheim")
    vnc.receive(VERSION + b"\x01\x13" + b"\0\2" + b"\0\x02" + struct.pack(">II", 258, 261) + b"\x01", 0)
    assert vnc.events() == [TlsWanted()]
    assert vnc.data_to_send() == VERSION + b"\x13" + b"\0\2" + struct.pack(">I", 261)
    vnc.tls_begins()
    vnc.tls_ready()
    vnc.receive(bytes(16), 0)
    assert vnc.data_to_send() == b"geheim".ljust(16, b".")


STRIPPED = {
    "not offered, password": (VERSION + b"\x01\x02", VERSION),
    "not offered, none": (VERSION + b"\x02\x01\x02", VERSION),
    "3.7": (b"RFB 003.007\n\x02\x13\x02", b"RFB 003.007\n"),
    "3.3, password": (b"RFB 003.003\n" + struct.pack(">I", 2) + bytes(16), b"RFB 003.003\n"),
    "3.3, none": (b"RFB 003.003\n" + struct.pack(">I", 1), b"RFB 003.003\n"),
    "VeNCrypt without certificates": (
        VERSION + b"\x01\x13" + b"\0\2" + b"\0\x03" + struct.pack(">III", 258, 2, 1) + bytes(16),
        VERSION + b"\x13\0\2",
    ),
}


@pytest.mark.parametrize("way", STRIPPED)
def test_door_that_was_told_to_use_tls_sends_nothing_without(way: str) -> None:
    """Anybody on the path can take VeNCrypt out of what the server offers."""
    offered, sent = STRIPPED[way]
    vnc = VncClient(48_000, 2, "geheim", lambda challenge, text: text.encode().ljust(16, b"."), 0, tls=True)
    with pytest.raises(LoginRefused, match=r"offers no TLS with certificates .*--tls: nothing was sent"):
        vnc.receive(offered, 0)
    assert vnc.data_to_send() == sent
    client("geheim").receive(offered, 0)


def test_door_that_was_told_to_use_tls_takes_it_among_others() -> None:
    vnc = VncClient(48_000, 2, "geheim", lambda challenge, text: b"", 0, tls=True)
    offered = b"\x02\x02\x13" + b"\0\2" + b"\0\x03" + struct.pack(">III", 2, 1, 260)
    vnc.receive(VERSION + offered + b"\x01", 0)
    assert vnc.events() == [TlsWanted()]


@pytest.mark.parametrize(("said", "hint"), [(b"", ", or this is not a VNC server"), (VERSION, "")])
def test_silent_server_may_not_be_vnc_unless_it_started_as_one(said: bytes, hint: str) -> None:
    vnc = client()
    vnc.receive(said, 0)
    due = vnc.next_timeout()
    assert due is not None
    with pytest.raises(PeerLost) as told:
        vnc.handle_timeout(due)
    assert str(told.value) == f"the VNC server does not answer; it may be stopped{hint}"


def test_server_without_sound_stays_for_its_picture() -> None:
    vnc = client()
    vnc.receive(VERSION + b"\x01\x01" + bytes(4) + INIT, 5)
    assert vnc.events() == [Ready("vm")] and not vnc.sound and vnc.next_timeout() is None


@pytest.mark.parametrize("pictures", [PLAIN, COMPRESSED])
def test_pictures_are_wanted_in_one_format_and_best_encoding_first(pictures: tuple[int, ...]) -> None:
    vnc = VncClient(48_000, 2, "", lambda challenge, text: b"", 0, pictures)
    vnc.receive(VERSION + b"\x01\x01" + bytes(4) + INIT, 0)
    out = vnc.data_to_send().removeprefix(VERSION + b"\x01\x01")
    assert out[:4] == bytes(4) and out[4:8] == bytes((32, 24, 0, 1)) and out[14:17] == bytes((16, 8, 0))
    count = struct.unpack(">xxH", out[20:24])[0]
    wanted = struct.unpack(f">{count}i", out[24:])
    assert wanted[: len(pictures)] == pictures and wanted[-1] == -259 and {-239, -308, -258} < set(wanted)


def test_login_without_tls_is_found_inside_vencrypt() -> None:
    """TigerVNC lists it there, beside TLS without certificates."""
    vnc = client("geheim")
    vnc.receive(VERSION + b"\x01\x13" + b"\0\2" + b"\0\x02" + struct.pack(">II", 258, 2) + bytes(16), 0)
    assert vnc.data_to_send().endswith(struct.pack(">I", 2) + b"geheim".ljust(16, b"."))


@pytest.mark.parametrize(
    "said",
    [
        struct.pack(">BxH", 0, 1) + struct.pack(">HHHHi", 0, 0, 9, 9, 0),
        b"\x09",
        struct.pack(">BBH", 255, 7, 1),
        struct.pack(">BBHI", 255, 1, 2, 1 << 30),
        b"\x03\0\0\0" + struct.pack(">I", 1 << 30),
    ],
    ids=["picture", "unknown", "qemu", "audio size", "text size"],
)
def test_unrequested_message_ends_connection(said: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        ready().receive(said, 0)


@given(st.binary(max_size=300))
def test_any_bytes_end_at_most_the_connection(data: bytes) -> None:
    for vnc in (client("x"), ready()):
        try:
            vnc.receive(data, 0)
        except RemoteProtocolError:
            continue


@pytest.mark.parametrize("kind", [260, 261])
def test_plain_text_read_with_tls_acceptance_is_refused(kind: int) -> None:
    offer = VERSION + b"\x01\x13" + b"\0\2" + b"\0\x01" + struct.pack(">I", kind)
    client("geheim").receive(offer + b"\x01", 0)
    vnc = client("geheim")
    with pytest.raises(RemoteProtocolError, match="sent data before the TLS handshake"):
        vnc.receive(offer + b"\x01" + bytes(16), 0)
    assert vnc.events() == [] and b"geheim" not in vnc.data_to_send()


def shown(bits: int, width: int, height: int) -> VncClient:
    """One that has just been let in, by a server whose own pixels have so many bits."""
    vnc = VncClient(48_000, 2, "", lambda challenge, text: b"", 0, PLAIN)
    vnc.receive(VERSION + b"\x01\x01" + bytes(4) + struct.pack(">HHB15xI", width, height, bits, 0), 0)
    return vnc


@pytest.mark.parametrize(("bits", "doubt"), [
    (16, "; its own pixels have 16 bits, and it may send those, although 32 were asked for"), (32, ""), (0, ""),
])  # fmt: skip
def test_server_with_pixels_of_its_own_is_said_to_be_the_likely_cause_of_what_makes_no_sense(
    bits: int, doubt: str
) -> None:
    vnc = shown(bits, 4, 4)
    rect = struct.pack(">BxHHHHHi", 0, 1, 0, 0, 4, 4, 0)
    assert vnc.trouble == ""
    vnc.receive(rect + bytes(32), 0)
    assert vnc.trouble == (f"no picture of this VNC server has come to its end yet{doubt}" if doubt else "")
    with pytest.raises(RemoteProtocolError) as raised:
        vnc.receive(rect + bytes(16) + b"\x92", 0)
    assert str(raised.value) == f"unexpected VNC message type 146{doubt}"


def test_no_doubt_of_a_server_is_told_once_it_has_sent_a_picture() -> None:
    vnc = shown(16, 4, 4)
    vnc.receive(struct.pack(">BxHHHHHi", 0, 1, 0, 0, 4, 4, 0) + bytes(64), 0)
    assert vnc.trouble == ""


def test_screen_without_a_size_is_told() -> None:
    vnc = shown(32, 0, 0)
    assert vnc.trouble == "this VNC server's screen is 0 × 0: there is nothing to show yet"
    vnc.receive(struct.pack(">BxHHHHHi", 0, 1, 0, 0, 4, 4, -223), 0)
    assert vnc.trouble == ""
