"""The whole command line in unusual environments: each command works, or says in one sentence what is wrong."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.everycommand import DAEMON, DOCUMENTED, command_of
from tests.places import lack
from tests.real.conftest import MILLRACE, need, need_root

pytestmark = [pytest.mark.real, pytest.mark.beside]
NOBODY = 54321
"""A uid without an entry in /etc/passwd."""
HEARD = ["/dev/null", "captured", "captured"]
PRIVATE = 'mount --make-rprivate /; mount -t tmpfs -o "$1" tmpfs "$RUN"; shift; '


@dataclass
class Surroundings:
    """A process's environment. `mounts` runs in its own mount namespace; $RUN is the parent of the runtime folder."""

    streams: list[str] = field(default_factory=lambda: list(HEARD))
    encoding: str = "utf-8"
    uid: int = 0
    env: dict[str, str] = field(default_factory=dict)
    mounts: str = ""
    daemon: int = 0
    why: str = ""
    """The daemon's error message, if it can't run."""
    commands: list[list[str]] = field(default_factory=list)
    spoiled: bool = False
    """Whether each argument of each command is one that is not UTF-8."""


FEW = [
    ["ls"],
    ["listen", "--to", "null:", "--no-reconnect"],
    ["token", "list"],
    ["demo", "--seconds", "0.2", "--no-stay"],
]
PLACES = {
    # As in a container: any uid without a name, no home, no /proc, a read-only root, ASCII.
    "bare": Surroundings(
        ["closed", "captured", "captured"], "ascii", NOBODY,
        mounts='mount -t tmpfs -o mode=777 tmpfs "$RUN"; mkdir -m 777 "$RUN/r" "$RUN/s"; mount -t tmpfs tmpfs /proc;'
        " mount -o remount,bind,ro /",
    ),
    "full": Surroundings(["/dev/null", "/dev/full", "/dev/full"]),
    "closed": Surroundings(["closed", "closed", "closed"]),
    "homeless": Surroundings(uid=NOBODY, env={"XDG_STATE_HOME": ""}, daemon=2, why="no home directory", commands=FEW),
    "home is the root": Surroundings(
        uid=NOBODY, env={"XDG_STATE_HOME": "", "HOME": "/"}, daemon=2, why="/.local", commands=FEW
    ),
    "home of another": Surroundings(
        uid=NOBODY, env={"XDG_STATE_HOME": "", "HOME": "/root"}, daemon=2, why="permission denied", commands=FEW
    ),
    "no room for sockets": Surroundings(
        mounts='mount -t tmpfs -o nr_inodes=3 tmpfs "$RUN/r"', daemon=2, why="No space left on device", commands=FEW
    ),
    "no room for bytes": Surroundings(
        mounts='mount -t tmpfs -o size=4k tmpfs "$RUN/r"; head -c 4096 /dev/zero > "$RUN/r/x"',
        daemon=2, why="No space left on device", commands=FEW,
    ),
}  # fmt: skip


def tried(place: Surroundings, folder: Path) -> list[dict[str, Any]]:
    """Run every command in an environment; returns the result of each."""
    folder.chmod(0o777)
    for name in ("r", "s"):
        (folder / name).mkdir()
        os.chown(folder / name, place.uid, place.uid)
    env = {"PATH": os.environ["PATH"], "RUN": str(folder), "XDG_RUNTIME_DIR": f"{folder}/r"}
    env |= {"XDG_STATE_HOME": f"{folder}/s"} | place.env
    read, write = os.pipe()
    spec: dict[str, Any] = {"results": write, "streams": place.streams, "encoding": place.encoding}
    spec |= {"uid": place.uid} if place.uid else {}
    spec |= {"spoiled": True} if place.spoiled else {}
    spec |= {"commands": place.commands} if place.commands else {}
    command = command_of(spec)
    if place.mounts:
        command = ["unshare", "-m", "sh", "-ec", f'mount --make-rprivate /; {place.mounts}; exec "$@"', "sh", *command]
    process = subprocess.Popen(command, env=env, pass_fds=(write,), cwd=Path(__file__).parents[2])
    os.close(write)
    with os.fdopen(read) as results:
        found = [json.loads(line) for line in results]
    assert process.wait(10) == 0
    return found


@pytest.mark.parametrize("name", PLACES)
def test_every_command_works_or_says_why_not(name: str, tmp_path: Path) -> None:
    need_root()
    need("unshare", "mount")
    place = PLACES[name]
    # Paths of sockets must be short, and accessible to another user.
    folder = Path(f"/tmp/mr-{os.getpid()}-{list(PLACES).index(name)}")
    folder.mkdir()
    try:
        found = tried(place, folder)
    finally:
        subprocess.run(["rm", "-rf", str(folder)], check=True)
    for one in found:
        said = f"{one['args']}: {one['code']}\n{one['out']}\n{one['err']}"
        assert one["code"] in DOCUMENTED, said
        assert "Traceback" not in one["err"] and "Exception ignored" not in one["err"], said
        if place.streams[2] == "captured" and one["code"] not in (0, 130):
            assert "millrace: " in one["err"] and one["err"].endswith("\n"), said
    daemon = next(one for one in found if one["args"] == DAEMON)
    assert daemon["code"] == place.daemon, daemon
    assert place.why in daemon["err"], daemon
    if not place.commands:
        assert len(found) > 35
    if place.daemon == 0 and place.streams[1] == "captured":
        assert next(one for one in found if one["args"] == ["ls"])["code"] == 0


def test_argument_that_is_not_utf_8_is_refused_in_a_sentence_or_harmless(tmp_path: Path) -> None:
    """A file may have such a name."""
    with tempfile.TemporaryDirectory(prefix="mr") as folder:
        found = tried(Surroundings(spoiled=True), Path(folder))
    assert len(found) > 100
    for one in found:
        said = f"{one['args']}: {one['code']}\n{one['out']}\n{one['err']}"
        assert one["code"] in DOCUMENTED and "Traceback" not in one["err"], said
        assert one["code"] in (0, 130) or "millrace: " in one["err"] or "Error: " in one["err"], said


def test_command_starts_with_all_descriptors_closed(tmp_path: Path) -> None:
    """The same for what happens before a command runs: the interpreter's startup, imports, uvloop."""
    env = os.environ | {"XDG_RUNTIME_DIR": str(tmp_path), "XDG_STATE_HOME": str(tmp_path)}
    shell = 'exec "$@" <&- >&- 2>&-'
    serve = subprocess.Popen(["sh", "-c", shell, "sh", *MILLRACE, "serve", "--listen", "127.0.0.1:0"], env=env)
    try:
        ascii_only = env | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
        for _ in range(100):
            done = subprocess.run([*MILLRACE, "explain", "\x1b[31m—"], env=ascii_only, capture_output=True)
            if b"no daemon" not in done.stderr:
                break
        assert done.returncode == 2 and b"\x1b" not in done.stderr and b"\\x1b[31m" in done.stderr, done
        helped = subprocess.run([*MILLRACE, "listen", "--help"], env=ascii_only, capture_output=True, check=True)
        assert b"wss://" in helped.stdout and helped.stdout.isascii()
    finally:
        serve.terminate()
    assert serve.wait(10) == 0


def test_command_line_in_a_latin_1_locale(tmp_path: Path) -> None:
    """Arguments and output use the locale's encoding, and UTF-8 from elsewhere is shown without control characters."""
    need("localedef", "locale")
    made = ["localedef", "-c", "-i", "en_US", "-f", "ISO-8859-1", str(tmp_path / "en_US.ISO-8859-1")]
    subprocess.run(made, check=False, capture_output=True)
    env = os.environ | {"LOCPATH": str(tmp_path), "LC_ALL": "en_US.ISO-8859-1", "PYTHONUTF8": "0"}
    # Without the locale sources, localedef creates a folder without the character set, and may still report success.
    if subprocess.run(["locale", "charmap"], env=env, capture_output=True, check=False).stdout != b"ISO-8859-1\n":
        lack("the sources of locales (package locales)")
    env |= {"PYTHONCOERCECLOCALE": "0", "XDG_RUNTIME_DIR": str(tmp_path), "XDG_STATE_HOME": str(tmp_path)}
    env.pop("PYTHONIOENCODING", None)
    asked = [sys.executable, "-c", "import sys; print(sys.stdout.encoding, sys.getfilesystemencoding())"]
    encodings = subprocess.run(asked, env=env, capture_output=True, text=True, check=True).stdout.split()
    assert encodings == ["iso8859-1", "iso8859-1"]

    def run(*words: str | bytes) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run([*MILLRACE, *words], env=env, capture_output=True, check=False)

    serve = subprocess.Popen([*MILLRACE, "serve", "--listen", "127.0.0.1:0"], env=env, stdout=subprocess.PIPE)
    try:
        assert serve.stdout is not None
        while b"ready" not in (line := serve.stdout.readline()):
            assert line
        named = run("sink", "add", "music", "--description", "Gerät".encode("latin-1"))
        assert named.returncode == 0, named
        shown = run("explain", "stream/Gerät".encode("latin-1"))
        assert shown.returncode == 3 and b"Ger\xe4t" in shown.stderr, shown
        assert json.loads(run("ls", "--json").stdout)["guests"][0]["sinks"][-1]["description"] == "Gerät"
        # The second byte is a control character in Latin-1.
        wrong = run("explain", "stream/音".encode())
        assert wrong.returncode == 3 and b"\\x9f" in wrong.stderr and b"\x9f" not in wrong.stderr, wrong
    finally:
        serve.terminate()
    assert serve.wait(20) == 0
