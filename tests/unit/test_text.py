"""Untrusted text: how it is shown, and the parsers."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millrace import text as t
from millrace.errors import ConfigError
from millrace.units import NS_PER_MS, NS_PER_S

HOSTILE = {
    "\x1b[31mred\x1b[0m": "\\x1b[31mred\\x1b[0m",
    "\x1b]0;title\x07": "\\x1b]0;title\\x07",
    "one\ntwo\rthree\tfour": "one\\ntwo\\rthree\\tfour",
    "\x9b31m": "\\x9b31m",
    "a\u202eb\u2066c\u200fd": "a\\u202eb\\u2066c\\u200fd",
    "a\u2028b\u2029c": "a\\u2028b\\u2029c",
    "\ud800x\udcff": "\\ud800x\\udcff",
    "\ue000\U000e0041\u0378": "\\ue000\\U000e0041\\u0378",
    "\x7f\x00": "\\x7f\\x00",
}


@pytest.mark.parametrize("foreign", HOSTILE)
def test_terminal_control_characters_are_escaped(foreign: str) -> None:
    assert t.printable(foreign) == HOSTILE[foreign]
    assert not t.clean(foreign)


@pytest.mark.parametrize("kept", ["Müller’s Gerät", "فارسی می\u200cخواهم", "音声", "👩\u200d💻 ❤️", "C:\\dir", ""])
def test_letters_of_every_script_are_kept(kept: str) -> None:
    assert t.printable(kept) == kept
    assert t.clean(kept)


@settings(deadline=None, max_examples=50)
@given(st.text())
def test_printable_text_contains_no_control_characters(foreign: str) -> None:
    for char in t.printable(foreign):
        assert char in "\u200c\u200d" or unicodedata.category(char) not in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")
    t.printable(foreign).encode()


def test_bytes_and_length() -> None:
    assert t.printable(b"caf\xc3\xa9 \xff\x1b") == "café \\xff\\x1b"
    assert t.printable("x" * 300, 10) == "x" * 9 + "…"
    assert len(t.quoted("x" * 300)) == 62
    assert t.quoted(10**6000) == "a number with too many digits"
    assert t.quoted([10**6000]) == "a list"
    assert t.quoted(True) == "true"


def test_own_line_breaks_are_kept_around_foreign_text() -> None:
    assert t.printable_lines("one\t2\n\x1bthree\n") == "one\t2\n\\x1bthree\n"


def refused(call: Callable[[], object]) -> str:
    with pytest.raises(ConfigError) as caught:
        call()
    said = str(caught.value)
    assert t.clean(said) and "thing" in said and len(said) < 400
    return said


NO_NUMBER = ["", " ", "x", "1_000", "²", "٣", "nan", "inf", "-inf", "0x10", "1e3", "1 2", "+-1", "1\x1b", "9" * 6000]


@pytest.mark.parametrize("bad", [*NO_NUMBER, "1.0", "1.2.3", "11", "-1"])
def test_invalid_whole_numbers(bad: str) -> None:
    assert "0 to 10" in refused(lambda: t.parse_int(bad, "thing", 0, 10))


@pytest.mark.parametrize("bad", [*NO_NUMBER, "1.2.3", "1..5", ".", "10.1", "-0.1"])
def test_invalid_decimals(bad: str) -> None:
    assert "0% to 10%" in refused(lambda: t.parse_decimal(bad, "thing", 0, 10, "%"))


@pytest.mark.parametrize("bad", [*NO_NUMBER, "1.2.3", "1..5k", "64kk", "64x", "5k", "511k", "-64k", "9" * 29 + "G"])
def test_invalid_sizes(bad: str) -> None:
    refused(lambda: t.parse_size(bad, "thing", 6_000, 510_000))


@pytest.mark.parametrize("bad", [*NO_NUMBER, "5", "1.2.3s", "1..5ms", "ms", "5 years", "0ms", "11s", "9" * 29 + "w"])
def test_invalid_times(bad: str) -> None:
    refused(lambda: t.parse_duration_ns(bad, "thing", NS_PER_MS, 10 * NS_PER_S))


@pytest.mark.parametrize("bad", [True, 1.0, "1", None, -1, 11, 10**6000, [1]], ids=lambda v: type(v).__name__)
def test_invalid_whole_numbers_in_files(bad: object) -> None:
    refused(lambda: t.checked_int(bad, "thing", 0, 10))


@pytest.mark.parametrize("bad", [True, "1", None, -1, 11.5, 10**6000, float("nan")], ids=lambda v: type(v).__name__)
def test_invalid_numbers_in_files(bad: object) -> None:
    refused(lambda: t.checked_number(bad, "thing", 0, 10))


@pytest.mark.parametrize("bad", ["", ".", "..", "-x", ".x", "a b", "a/b", "ä", "x\n", "\x1b", "x" * 65, "api"])
def test_invalid_names(bad: str) -> None:
    refused(lambda: t.parse_name(bad, "thing", {"api"}))


@pytest.mark.parametrize("bad", ["\x1b[2J", "a\nb", "\u202e", "\ud800", "x" * 201])
def test_invalid_labels(bad: str) -> None:
    refused(lambda: t.parse_label(bad, "thing"))


NO_ADDRESS = ["", "x", "host", "host:", "host:x", "host:²", "host:70000", "host:-1", "host:1_0", "::1:8642"]
NO_ADDRESS += ["[::1]8642", "[::1]", "[x]:1", "a b:1", "\x1b:1", "http://x:1", "[::]:99999", "x:" + "9" * 5000]


@pytest.mark.parametrize("bad", NO_ADDRESS)
def test_invalid_addresses(bad: str) -> None:
    refused(lambda: t.parse_address(bad, "thing"))


def test_errors_say_what_is_valid() -> None:
    assert "[::1]:8642" in refused(lambda: t.parse_address("::1:8642", "thing"))
    assert "6k to 510k" in refused(lambda: t.parse_size("1", "thing", 6_000, 510_000))
    assert "1ms to 10s" in refused(lambda: t.parse_duration_ns("1h", "thing", NS_PER_MS, 10 * NS_PER_S))
    assert "wav, raw" in refused(lambda: t.parse_choice("mp3", "thing", ("wav", "raw")))
    assert "neither on nor off" in refused(lambda: t.parse_switch("maybe", "thing"))


def test_invalid_utf_8() -> None:
    assert t.well_formed("Gerät", "thing") == "Gerät"
    assert "is not UTF-8" in refused(lambda: t.well_formed("x\udcff", "thing"))


@pytest.mark.parametrize("bad", ['{"a": "\\ud800"}', b"\xff", "[" * 100_000, "9" * 5000, '{"a": NaN}', "", "{"])
def test_invalid_json(bad: str | bytes) -> None:
    assert "is not JSON" in refused(lambda: t.parse_json(bad, "thing"))


def test_valid_values() -> None:
    assert t.parse_int(" +7 ", "thing", 0, 10) == 7
    assert t.parse_decimal("-6.5 dB", "thing", -10, 0, "dB") == -6.5
    assert t.parse_decimal(".5%", "thing", 0, 1, "%") == 0.5
    assert [t.parse_size(s, "thing", 0, 10**9) for s in ("64k", "1.5M", "32000", "2Ki", "64 kbit/s")[:4]] == [
        64_000, 1_500_000, 32_000, 2048]  # fmt: skip
    assert t.parse_size("64 kbit/s", "thing", 0, 10**9, ("bit/s",)) == 64_000
    assert t.parse_duration_ns("2.5ms", "thing", 0, NS_PER_S) == 2_500_000
    assert t.parse_duration_ns("0.1", "thing", 0, NS_PER_S, "s") == 100_000_000
    assert t.parse_duration_ns("8H", "thing", 0, 10**18) == 8 * 3600 * NS_PER_S
    assert t.parse_name("vm-1.a_B", "thing") == "vm-1.a_B"
    assert t.parse_label("Müller’s 👩\u200d💻", "thing") == "Müller’s 👩\u200d💻"
    assert t.parse_switch("Yes", "thing") and not t.parse_switch("0", "thing")


@pytest.mark.parametrize(
    ("text", "meant"),
    [("127.0.0.1:80", ("127.0.0.1", 80)), ("[::]:8642", ("::", 8642)), (":0", ("", 0)), ("a.b-c:1", ("a.b-c", 1)),
     ("[fe80::1%eth0]:9", ("fe80::1%eth0", 9))],
)  # fmt: skip
def test_valid_addresses(text: str, meant: tuple[str, int]) -> None:
    assert t.parse_address(text, "thing") == meant
    assert t.show_address(*meant) == text


@settings(deadline=None, max_examples=50)
@given(st.text(max_size=40))
def test_parser_returns_value_or_error_text(foreign: str) -> None:
    for parse in (
        lambda: t.parse_int(foreign, "thing", 0, 10), lambda: t.parse_decimal(foreign, "thing", 0, 10),
        lambda: t.parse_size(foreign, "thing", 0, 10), lambda: t.parse_duration_ns(foreign, "thing", 0, 10),
        lambda: t.parse_name(foreign, "thing"), lambda: t.parse_address(foreign, "thing"),
        lambda: t.parse_label(foreign, "thing"), lambda: t.parse_host(foreign, "thing"),
    ):  # fmt: skip
        try:
            parse()
        except ConfigError as error:
            assert t.clean(str(error))


def test_formatted_values_parse_back() -> None:
    for ns in (1, 1_500, 20 * NS_PER_MS, 90 * NS_PER_S, 8 * 3600 * NS_PER_S, 7 * 86_400 * NS_PER_S):
        assert t.parse_duration_ns(t.show_duration(ns), "thing", 0, 10**18) == ns
    for size in (1, 6_000, 1_500_000, 10**9):
        assert t.parse_size(t.show_size(size), "thing", 0, 10**9) == size


def test_key_of_any_length_has_a_number_or_none() -> None:
    assert t.key_number("12") == 12
    assert t.key_number("9" * 15) == 10**15 - 1
    for text in ("9" * 16, "9" * 5000, "", "-1", "1_0", "²", "١"):
        assert t.key_number(text) == -1


def test_size_with_too_many_digits_is_refused_before_computing() -> None:
    assert t.parse_size("0" * 29 + "1", "size", 0, 10) == 1
    with pytest.raises(ConfigError, match="is not a number"):
        t.parse_size("0" * 30 + "1", "size", 0, 10)
