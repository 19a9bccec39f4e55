"""The fuzz target on random and on well-formed but random input, in every run."""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from millrace.wire.pulse.constants import Command
from millrace.wire.pulse.layouts import REQUESTS, write_fields
from millrace.wire.pulse.session import HEADER
from millrace.wire.pulse.tagstruct import WRITE, FormatInfo, Spec, Writer
from tests.fuzz.pulse_target import one_input

U32 = st.one_of(st.integers(0, 12), st.integers(0, 2**32 - 1), st.just(0xFFFFFFFF))
TEXT = st.one_of(
    st.none(),
    st.sampled_from(["default", "default.monitor", "@DEFAULT_SINK@", "7", "module-null-sink"]),
    st.sampled_from(["module-remap-sink", "module-remap-source", "module-loopback", "module-combine-sink"]),
    st.sampled_from(["module-null-source", "module-stream-restore", "module-device-restore"]),
    st.sampled_from(["sink_name=a", "slaves=a,default", "master=a channels=1", "source=a.monitor", "sink_name='"]),
    st.text("ab='\"\\ ,._", max_size=30),
    st.text(max_size=9),
)
PROPS = st.dictionaries(st.text(max_size=5), st.binary(max_size=9), max_size=3)
SPEC = st.one_of(st.just(Spec(3, 2, 48_000)), st.builds(Spec, st.integers(0, 255), st.integers(0, 255), U32))
FORMATS = st.builds(FormatInfo, st.integers(0, 9), PROPS)
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "s": TEXT, "L": U32, "B": st.integers(0, 255), "R": U32, "r": st.integers(-(2**63), 2**63 - 1), "U": U32,
    "T": st.tuples(U32, U32), "a": SPEC, "m": st.lists(st.integers(0, 60), max_size=32).map(tuple),
    "v": st.lists(U32, max_size=32).map(tuple), "V": U32, "x": st.binary(max_size=9), "b": st.booleans(),
    "P": PROPS, "f": FORMATS, "F": st.lists(FORMATS, max_size=3), "S": st.lists(st.text(max_size=5), max_size=3),
}  # fmt: skip
TAGGED = st.sampled_from("LLtbmvFVP").flatmap(lambda kind: st.tuples(st.just(kind), VALUES.get(kind, TEXT)))


@st.composite
def nested(draw: st.DrawFn) -> bytes:
    """An extension's arguments: tagged values, of which the first is a number."""
    writer = Writer()
    writer.u32(draw(st.integers(0, 6)))
    for kind, value in draw(st.lists(TAGGED, max_size=6)):
        WRITE["s" if kind == "t" else kind](writer, value)
    return bytes(writer.data)


VALUES["*"] = st.one_of(st.binary(max_size=9), nested())


@st.composite
def commands(draw: st.DrawFn) -> bytes:
    """A well-formed command with arbitrary values, or a block for some channel."""
    if draw(st.integers(0, 3)) == 0:
        data = draw(st.binary(max_size=3000))
        return (
            HEADER.pack(
                len(data), draw(st.integers(0, 3)), draw(st.integers(-2, 2)), draw(U32), draw(st.integers(0, 3))
            )
            + data
        )
    command = draw(st.sampled_from(sorted(REQUESTS)))
    writer = Writer()
    writer.u32(command)
    writer.u32(draw(U32))
    write_fields(
        REQUESTS[Command(command)], {f.name: draw(VALUES[f.type]) for f in REQUESTS[Command(command)]}, writer, 35
    )
    return HEADER.pack(len(writer.data), 0xFFFFFFFF, 0, 0, 0) + bytes(writer.data)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(st.lists(commands(), min_size=1, max_size=12))
def test_well_formed_nonsense_is_served_or_refused(messages: list[bytes]) -> None:
    one_input(b"".join(messages))


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=2000))
def test_random_bytes_end_at_most_their_own_connection(data: bytes) -> None:
    one_input(data)
