"""What README and docs tell to type, and what messages tell to install."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

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
