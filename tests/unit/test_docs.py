"""What README and docs tell to type, and what messages tell to install."""

from __future__ import annotations

import re
import tomllib
from functools import cache
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


NOT_THERE = {"millrace.bearer.SESSION", "guest/pipewire.py"}
"""A placeholder, and a door that nobody has made."""
FILES = re.compile(r"`((?:\w+/)+\w+\.(?:py|js|html|md|ts|json|service))`")
NAMES = re.compile(r"`([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)+)`")
ENDINGS = {"db", "html", "js", "json", "md", "mkv", "pem", "png", "py", "service", "sock", "toml", "wav"}


@pytest.mark.parametrize("path", [path for path in TEXTS if path.name != "CHANGELOG.md"], ids=lambda path: path.name)
def test_files_and_names_in_the_docs_are_those_of_the_source(path: Path) -> None:
    text, roots = path.read_text(), (ROOT, ROOT / "src" / "millrace", ROOT / "src", ROOT / "docs", ROOT / "tests")
    files = set(FILES.findall(text)) - NOT_THERE
    assert not [name for name in files if not any((root / name).exists() for root in roots)]
    names = [name.split(".") for name in set(NAMES.findall(text)) - NOT_THERE]
    assert not [parts for parts in names if parts[-1] not in ENDINGS and not known() >= set(parts)]


@cache
def known() -> frozenset[str]:
    """The words of the source."""
    pages = (ROOT / "src" / "millrace" / "page").glob("*.js")
    return frozenset(word for one in (*SOURCES, *pages) for word in re.findall(r"\w+", one.read_text()))
