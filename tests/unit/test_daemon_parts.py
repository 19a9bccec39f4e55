"""Configuration, verbs, WAV files, command-line words."""

from __future__ import annotations

import subprocess
import sys
import wave
from pathlib import Path

import numpy as np
import pytest

from millrace.backends.wav import WavOutput
from millrace.cli.control import parse_matrix as parse_rows
from millrace.cli.demo import tune
from millrace.cli.listen import parse_settings
from millrace.client.outputs import make_output
from millrace.control.verbs import parse_matrix, parse_volume
from millrace.daemon import config as cfg
from millrace.dsp.convert import SampleFormat
from millrace.errors import ConfigError
from millrace.units import default_map


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_full_configuration_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    token = write(tmp_path / "token", "0123456789abcdef\n")
    token.chmod(0o600)
    text = f"""
[daemon]
listen = "0.0.0.0:9000"
token_file = "{token}"
[guest.alice]
rate = 44100
channels = 6
[guest.bob]
pulse_tcp = ["127.0.0.1:4713", "[::1]:4713"]
"""
    loaded = cfg.load(write(tmp_path / "c.toml", text))
    assert loaded.listen == "0.0.0.0:9000" and loaded.token == "0123456789abcdef"
    assert loaded.guests == (
        cfg.GuestConfig("alice", 44_100, 6),
        cfg.GuestConfig("bob", pulse_tcp=("127.0.0.1:4713", "[::1]:4713")),
    )
    assert "0123456789abcdef" not in repr(loaded)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "nowhere"))
    monkeypatch.setenv("MILLRACE_TOKEN", "from-environment")
    assert cfg.load(None).token == "from-environment"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("[daemon]\nlisten = 5", "listen must be a string"),
        ("[daemon]\nlisten = 'nowhere'", "HOST:PORT"),
        (
            "[daemon]\nspeed = 5",
            "unknown speed; known: listen, token_file, public_url, allowed_origins, trusted_proxies$",
        ),
        ("[deamon]", r"unknown deamon \(did you mean daemon\?\); known: daemon, tls, guest$"),
        ("[guest.a]\nrate = 5", "8000"),
        ("[guest.a]\nchannels = 77", "1 to 8"),
        (
            "[guest.a]\nmemory = '256MB'",
            r"guest\.a\.memory: '256MB' is not a number.* with k, M, G, Ki, Mi or Gi; it is 16M to 1000G",
        ),
        ("[guest.a]\nrights = 'hear,sing'", r"guest\.a\.rights: .*sing"),
        ("[guest.a]\ngrants = { mic = 'allow' }", r"guest\.a\.grants: .*mic"),
        (
            "[guest.a]\ngrants = { camera = 'yes' }",
            r"guest\.a\.grants\.camera: 'yes' is not one of allow, deny, prompt",
        ),
        ("[guest.a]\ndoors = ['spcie://h']", r"guest\.a\.doors: .*spcie"),
        ("[guest.a]\ndoors = ['vnc://h', 5]", r"guest\.a\.doors: 5 is neither an address in quotes nor a table"),
        ("[daemon]\npublic_url = 'desk'", r"daemon\.public_url: 'desk'"),
        ("[daemon]\nallowed_origins = ['desk']", r"daemon\.allowed_origins: 'desk'"),
        ("[daemon]\ntrusted_proxies = ['desk']", r"daemon\.trusted_proxies: 'desk'"),
        ("[[tls.client]]\nname = 'x'\nmay = 'sing'", r"tls\.client\.may: .*sing"),
        ("[guest.a]\npulse_tcp = 5", "HOST:PORT"),
        ("[guest.api]", "guest name"),
        ("[guest.'../x']", "guest name"),
        ("[", "Invalid initial character"),
        ("[daemon]\ntoken_file = '/nonexistent'", "token file"),
    ],
)
def test_invalid_configuration_names_the_mistake(text: str, why: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=why) as said:
        cfg.load(write(tmp_path / "c.toml", text))
    assert str(tmp_path / "c.toml") in str(said.value)


def test_token_file_readable_by_others_is_refused(tmp_path: Path) -> None:
    token = write(tmp_path / "token", "0123456789abcdef")
    token.chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        cfg.read_token(token)
    token.write_text("short")
    token.chmod(0o600)
    with pytest.raises(ConfigError, match="16 characters"):
        cfg.read_token(token)


def test_volumes_are_cubic_percentages_or_decibels() -> None:
    assert parse_volume("50%") == pytest.approx(0.125)
    assert parse_volume("-6dB") == pytest.approx(0.501, abs=0.001)
    for bad in ("loud", "-5%", "500%", "40dB", "..%"):
        with pytest.raises(ConfigError, match="volume"):
            parse_volume(bad)


def test_matrices_are_rows_of_numbers() -> None:
    assert parse_rows("1,0;0,0.5") == [[1.0, 0.0], [0.0, 0.5]]
    matrix = parse_matrix([[1, 0], [0, 0.5]])
    assert matrix is not None and matrix.shape == (2, 2) and parse_matrix(None) is None
    for bad in ([1, 2], [[1, "x"]], "x", [[1e9]], [[float("nan")]], [[1], [1, 2]]):
        with pytest.raises(ConfigError, match="matrix"):
            parse_matrix(bad)
    with pytest.raises(ConfigError, match="--matrix"):
        parse_rows("a,b")


def test_command_line_words(tmp_path: Path) -> None:
    assert parse_settings(["a=b", "c=d=e"]) == {"a": "b", "c": "d=e"}
    for bad in ("a", "=b", "a="):
        with pytest.raises(ConfigError):
            parse_settings([bad])
    assert make_output("null:", "normal").name == "null:"
    for bad in ("tape:", "wav:", "raw:", f"raw:{tmp_path}/no/such"):
        with pytest.raises(ConfigError):
            make_output(bad, "normal")
    assert tune(1.0).shape == (48_000, 2)


@pytest.mark.parametrize("sample", [SampleFormat.S16LE, SampleFormat.F32LE])
def test_wav_header_is_valid_at_every_moment(sample: SampleFormat, tmp_path: Path) -> None:
    path = tmp_path / "x.wav"
    out = WavOutput(path, sample)
    out.open(48_000, default_map(2))
    out.write(np.full((100_000, 2), 0.25, np.float32))
    size = int.from_bytes(path.read_bytes()[40:44], "little")
    assert 0 < size <= path.stat().st_size - 44
    out.skip(50_000)
    out.open(48_000, default_map(2))
    with pytest.raises(ConfigError, match="one format"):
        out.open(44_100, default_map(2))
    out.close()
    if sample is SampleFormat.S16LE:
        with wave.open(str(path)) as file:
            assert file.getnframes() == 150_000
            assert np.frombuffer(file.readframes(1), "<i2")[0] == 8192
    with pytest.raises(ConfigError, match="No such file"):
        WavOutput(tmp_path / "no" / "x.wav").open(48_000, default_map(2))


COLLECTED = """
import gc
from millrace.daemon.collector import MIDDLE, YOUNG, calm
calm()
before = [one["collections"] for one in gc.get_stats()]
count = 50 * YOUNG
kept = [[] for _ in range(count)]
young, middle, old = (one["collections"] - was for one, was in zip(gc.get_stats(), before))
assert 30 <= young + middle <= 60, (young, middle)
assert middle >= young // (2 * MIDDLE + 2), (young, middle)
assert old == 0, "the old were looked at, and there may be many"
assert gc.get_freeze_count() > count // 2
"""


def test_collector_scans_young_generation_and_freezes_survivors() -> None:
    subprocess.run([sys.executable, "-c", COLLECTED], check=True, timeout=60)
