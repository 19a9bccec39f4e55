"""What README and docs tell to type, and what messages tell to install."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

import millrace
from millrace.server.http.api import PREFIX
from millrace.wire.native import messages as native
from millrace.wire.peer import messages as peer
from millrace.wire.peer import pictures

ROOT = Path(__file__).parents[2]
TEXTS = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
SOURCES = sorted((ROOT / "src").rglob("*.py"))
ELSEWHERE = re.compile(r"(?:pipx?|uv) install [^\n]*\bmillrace(?!-av)\b")
"""An installation by a name that is another project's on PyPI."""
WARNS = {"README.md", "0013-name-of-the-distribution.md"}
"""They say that it is."""


def test_the_distribution_has_a_name_of_its_own_and_no_text_installs_the_other() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["name"] == "millrace-av" and project["scripts"]["millrace"]
    found = {path.name for path in TEXTS + SOURCES if ELSEWHERE.search(path.read_text())}
    assert found == WARNS
    said = [line for line in (ROOT / "README.md").read_text().splitlines() if ELSEWHERE.search(line)]
    assert said == ["`pip install millrace` fetches is another project."]


def test_interfaces_are_as_the_page_on_stability_names_them() -> None:
    """Whoever changes one of these has to say there from when on."""
    text = (ROOT / "docs" / "stability.md").read_text()
    table = [row.strip("| ").split(" | ") for row in text.split("\n") if row.startswith("| ")]
    rows = {row[0]: row[-1] for row in table}
    versions = [said for interface, said in rows.items() if "protocol" in interface]
    assert versions == [
        f"`version` {native.VERSION} of its Hello", f"`version` {peer.VERSION} of `hello`",
        f"`version` {pictures.PICTURE_VERSION} of `watch`",
    ]  # fmt: skip
    assert next(said for interface, said in rows.items() if interface.startswith("HTTP API")) == f"`{PREFIX}`"
    library = next(interface for interface in rows if interface.startswith("Python library"))
    assert re.findall(r"`(\w+)`", library)[:-1] == sorted(millrace.__all__)


def commands(path: Path, program: str) -> list[str]:
    """The commands of a text that call `program`, continued lines joined."""
    joined = path.read_text().replace("\\\n", " ")
    return [line for line in joined.splitlines() if re.match(rf"\s*(?:\$ )?{program}\b", line)]


@pytest.mark.parametrize("path", [ROOT / "README.md", ROOT / "docs/machines.md"], ids=lambda path: path.name)
def test_complete_qemu_commands_start_on_the_oldest_qemu_that_is_supported(path: Path) -> None:
    """QEMU 7.2: it has no `virtio-sound-pci`, which came with 8.2."""
    lines = commands(path, "qemu-system-x86_64")
    assert lines
    for line in lines:
        assert "hda-duplex,audiodev=a" in line and "virtio-sound" not in line
