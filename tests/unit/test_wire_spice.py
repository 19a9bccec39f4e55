"""SPICE channels: link, ticket, messages, and the treatment of wrong or hostile servers."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millrace.errors import PasswordRefused, PeerLost, RemoteProtocolError
from millrace.wire.spice.channel import (
    ANSWER_NS,
    FEWER_AT_ONCE,
    MESSAGE_MAX,
    ChannelKind,
    LinkRefused,
    SpiceChannel,
    SpiceMessage,
)
from millrace.wire.spice.messages import (
    ChannelsList,
    Data,
    MainInit,
    Mode,
    Mute,
    Start,
    Stop,
    Volume,
    main_event,
    playback_event,
    record_event,
)
from tests.fuzz import seeds

KEY = bytes(range(162))


def reply(error: int = 0, caps: tuple[int, ...] = (0b1011, 0)) -> bytes:
    body = (
        struct.pack("<I", error)
        + KEY
        + struct.pack("<III", 1, len(caps) - 1, 178)
        + struct.pack(f"<{len(caps)}I", *caps)
    )
    return b"REDQ" + struct.pack("<III", 2, 2, len(body)) + body


def opened(password: str = "") -> SpiceChannel:
    channel = SpiceChannel(
        ChannelKind.PLAYBACK, 7, 0b0110, password, lambda key, text: text.encode().ljust(128, b"."), 0
    )
    channel.receive(reply(), 0)
    channel.receive(bytes(4), 0)
    assert channel.open
    channel.data_to_send()
    return channel


def message(kind: int, body: bytes = b"") -> bytes:
    return struct.pack("<HI", kind, len(body)) + body


def test_rejected_channel_gives_up_and_accepted_one_stays() -> None:
    """A server that has accepted the main channel may leave the sound channels waiting for ever, without sound."""
    channel = SpiceChannel(ChannelKind.PLAYBACK, 1, 0, "", lambda key, text: bytes(128), 5)
    channel.receive(seeds.spice_reply(bytes(162)), 6)
    assert channel.next_timeout() == 5 + ANSWER_NS
    channel.handle_timeout(4 + ANSWER_NS)
    with pytest.raises(PeerLost, match="does not answer on the playback channel"):
        channel.handle_timeout(5 + ANSWER_NS)
    channel.receive(bytes(4), 7)
    assert channel.open and channel.next_timeout() is None
    channel.handle_timeout(5 + ANSWER_NS)


def test_link_names_channel_session_and_capabilities_and_sends_ticket() -> None:
    channel = SpiceChannel(
        ChannelKind.RECORD, 0x11223344, 0b10, "secret", lambda key, text: (key + text.encode())[-128:], 0
    )
    assert channel.data_to_send() == (
        b"REDQ" + struct.pack("<III", 2, 2, 26) + struct.pack("<IBBIII", 0x11223344, 6, 0, 1, 1, 18)
        + struct.pack("<II", 0b1011, 0b10)
    )  # fmt: skip
    for byte in reply():
        channel.receive(bytes((byte,)), 0)
    sent = channel.data_to_send()
    assert sent[:4] == struct.pack("<I", 1) and sent[4:] == (KEY + b"secret")[-128:]
    assert not channel.open


@pytest.mark.parametrize(
    ("code", "hint"), [(5, "--tls"), (6, "without --tls"), (7, "--password-file"), (99, "refused: 99")]
)
def test_refused_link_says_what_to_do(code: int, hint: str) -> None:
    channel = SpiceChannel(ChannelKind.MAIN, 0, 0, "", lambda key, text: bytes(128), 0)
    with pytest.raises(LinkRefused, match=hint):
        channel.receive(reply(code), 0)


# Without the mini header in common, the server begins every message with a serial number and would be misread.
@pytest.mark.parametrize("caps", [(0b0011, 0), (0, 0b1011)])
def test_server_without_mini_header_is_refused(caps: tuple[int, ...]) -> None:
    channel = SpiceChannel(ChannelKind.MAIN, 0, 0, "", lambda key, text: bytes(128), 0)
    with pytest.raises(RemoteProtocolError, match="is too old"):
        channel.receive(reply(caps=caps), 0)


def test_wrong_and_missing_passwords_are_told_apart() -> None:
    for password, kind, hint in (
        ("x", PasswordRefused, "rejected the password"),
        ("", LinkRefused, "needs a password"),
    ):
        channel = SpiceChannel(ChannelKind.MAIN, 0, 0, password, lambda key, text: bytes(128), 0)
        channel.receive(reply(), 0)
        with pytest.raises(kind, match=hint):
            channel.receive(struct.pack("<I", 7), 0)


def test_acknowledgements_are_sent_every_window_and_pings_answered() -> None:
    channel = opened()
    channel.receive(message(3, struct.pack("<II", 5, 2)), 0)
    assert channel.data_to_send() == message(1, struct.pack("<I", 5))
    channel.receive(message(101, bytes(8)), 0)
    assert channel.data_to_send() == b""
    channel.receive(message(4, bytes(range(12)) + b"padding"), 0)
    assert channel.data_to_send() == message(2) + message(3, bytes(range(12)))
    assert channel.events() == [SpiceMessage(101, bytes(8))]


def test_few_messages_of_sound_are_taken_at_once() -> None:
    channel = opened()
    channel.receive(
        b"".join(
            message(102, struct.pack("<IHII", 2, 1, 8_000 + n, 0))
            for n in range(2 * FEWER_AT_ONCE[ChannelKind.PLAYBACK] + 1)
        ),
        0,
    )
    taken = [len(channel.events())]
    while channel.unfinished:
        channel.receive(b"", 0)
        taken.append(len(channel.events()))
    assert taken == [2, 2, 1] and channel.partial_bytes == 0


@pytest.mark.parametrize(
    "data",
    [b"HTTP/1.1 400 Bad\r\n", b"REDQ" + struct.pack("<III", 9, 0, 178), b"REDQ" + struct.pack("<III", 2, 2, 1 << 30)],
)
def test_server_without_spice_is_reported(data: bytes) -> None:
    channel = SpiceChannel(ChannelKind.MAIN, 0, 0, "", lambda key, text: bytes(128), 0)
    with pytest.raises(RemoteProtocolError):
        channel.receive(data, 0)


@pytest.mark.parametrize(("said", "hint"), [(b"RFB 003.008\n", ": it is a VNC server"), (b"SSH-", ""), (b"RED!", "")])
def test_other_server_is_recognized_by_its_first_bytes(said: bytes, hint: str) -> None:
    channel = SpiceChannel(ChannelKind.PLAYBACK, 1, 0, "", lambda key, text: bytes(128), 0)
    channel.receive(b"", 0)
    with pytest.raises(RemoteProtocolError) as told:
        channel.receive(said, 0)
    assert str(told.value) == f"this is not a SPICE server{hint}"


def test_lengths_are_checked_before_buffering() -> None:
    with pytest.raises(RemoteProtocolError, match="at most"):
        opened().receive(struct.pack("<HI", 101, MESSAGE_MAX + 1), 0)


def test_sound_messages_are_parsed() -> None:
    init = struct.pack("<8I", 77, 0, 0, 0, 0, 0, 1234, 0)
    assert main_event(SpiceMessage(103, init)) == MainInit(77, 1234)
    assert main_event(SpiceMessage(104, struct.pack("<IBBBB", 2, 5, 0, 6, 1))) == ChannelsList(((5, 0), (6, 1)))
    assert playback_event(SpiceMessage(102, struct.pack("<IH", 0, 3))) == Mode(3)
    assert playback_event(SpiceMessage(103, struct.pack("<IHII", 2, 1, 48_000, 0))) == Start(2, 48_000)
    assert playback_event(SpiceMessage(101, struct.pack("<I", 9) + b"pcm!")) == Data(9, b"pcm!")
    assert playback_event(SpiceMessage(104, b"")) == Stop()
    assert playback_event(SpiceMessage(105, b"\x02" + struct.pack("<HH", 1, 65_535))) == Volume((1, 65_535))
    assert record_event(SpiceMessage(101, struct.pack("<IHI", 2, 1, 44_100))) == Start(2, 44_100)
    assert record_event(SpiceMessage(104, b"\x01")) == Mute(True)


@given(st.integers(0, 120), st.binary(max_size=60))
def test_any_message_is_parsed_skipped_or_refused(kind: int, body: bytes) -> None:
    channel = opened()
    try:
        channel.receive(message(kind, body), 0)
        for event in channel.events():
            main_event(event), playback_event(event), record_event(event)
    except RemoteProtocolError:
        return


@given(st.binary(max_size=400))
def test_any_bytes_end_at_most_the_channel(data: bytes) -> None:
    channel = SpiceChannel(ChannelKind.MAIN, 0, 0, "", lambda key, text: bytes(128), 0)
    try:
        channel.receive(data, 0)
    except RemoteProtocolError:
        return
