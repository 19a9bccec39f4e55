"""Rules of the source tree: imports go downward only, effects stay in the outer layers, files and functions small."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

SRC = Path(__file__).parent.parent / "src" / "millrace"
ROWS = [
    ["budget", "errors", "symptoms", "text", "units", "version"],
    ["clock", "dsp", "pixels"],
    ["media"],
    ["codec", "remembered", "rights"],
    ["backends", "graph", "playout", "wire"],
    ["doors", "io", "outlets"],
    ["client", "guest", "sim"],
    ["observe", "policy"],
    ["control"],
    ["server"],
    ["daemon", "lab"],
    ["cli"],
    # The façade: `millrace.connect` and the version.
    ["__init__"],
]
"""The layers from the bottom up, as listed in docs/architecture.md."""
RANK = {name: rank for rank, row in enumerate(ROWS) for name in row}
# Siblings on one row never import each other, with these exceptions.
ALLOWED_SIBLINGS = {("text", "errors"), ("text", "units"), ("budget", "errors"), ("symptoms", "units")}
EFFECTS = {
    "asyncio", "concurrent", "random", "secrets", "select", "selectors", "signal", "socket", "subprocess", "threading",
    "time",
}  # fmt: skip
EFFECT_LAYERS = {"io", "backends", "guest", "control", "server", "daemon", "client", "policy", "cli"}
EFFECT_FILES = {"lab/impair.py"}
BINDS = {
    "bind", "create_server", "create_unix_server", "serve_forever", "start_server", "start_unix_server", "TCPSite",
    "UnixSite",
}  # fmt: skip
FILES = sorted(SRC.rglob("*.py"))
MODULES = {"millrace." + ".".join(path.relative_to(SRC).with_suffix("").parts): path for path in FILES}


def layer(path: Path) -> str:
    relative = path.relative_to(SRC)
    return relative.parts[0] if len(relative.parts) > 1 else relative.stem


def imports(tree: ast.AST) -> list[str]:
    out = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            out += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            out.append(node.module)
    return out


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SRC)))
def test_imports_go_down_and_effects_stay_out(path: Path) -> None:
    own = layer(path)
    tree = ast.parse(path.read_text())
    for name in imports(tree):
        parts = name.split(".")
        if parts[0] == "millrace":
            other = parts[1] if len(parts) > 1 else "__init__"
            if other == own:
                continue
            below = RANK[other] < RANK[own]
            assert below or (own, other) in ALLOWED_SIBLINGS, f"{own} imports {other}"
            assert other != "sim" or own in ("lab", "cli"), "only tests and the laboratory import sim"
        elif parts[0] in EFFECTS and own not in EFFECT_LAYERS and str(path.relative_to(SRC)) not in EFFECT_FILES:
            raise AssertionError(f"{own} uses {parts[0]}")
    if own not in EFFECT_LAYERS:
        assert "os.urandom" not in path.read_text()


def test_only_guests_and_simulations_import_particular_doors() -> None:
    """Otherwise a new door would change everything above: a stream's own `Ingress` is asked instead."""
    doors = {path.name for path in (SRC / "doors").iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert {"native", "pulse", "qemu", "spice", "vnc"} <= doors
    for path in FILES:
        parts = path.relative_to(SRC).parts
        own = parts[1] if parts[0] == "doors" else None
        known = {name.split(".")[2] for name in imported_files(path) if name.startswith("millrace.doors.")} & doors
        assert not known - {own} or layer(path) in ("guest", "sim"), f"{path.relative_to(SRC)}: {known}"


SERVED = {"livesessions", "plane", "registry", "requests", "table"}
"""The modules of `control` that servers may use: the interface of the plane, and the values that cross it."""


def test_servers_know_only_the_control_plane() -> None:
    for path in FILES:
        if layer(path) == "server":
            known = {n.split(".")[2] for n in imported_files(path) if n.startswith("millrace.control.")}
            assert known <= SERVED, f"{path.relative_to(SRC)}: {known - SERVED}"
    interface = imported_files(SRC / "control" / "plane.py")
    assert not interface & {f"millrace.control.{name}" for name in ("commands", "local", "tokens", "worker")}


def imported_files(path: Path) -> set[str]:
    """The files of Millrace that a file imports, including imports in functions and under TYPE_CHECKING."""
    out: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            out |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            out |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return out & MODULES.keys()


def test_files_import_each_other_in_no_cycle() -> None:
    reached = {name: imported_files(path) for name, path in MODULES.items()}
    for middle, beyond in reached.items():
        for others in reached.values():
            if middle in others:
                others |= beyond
    assert not [name.removeprefix("millrace.") for name, others in reached.items() if name in others]


def test_each_module_is_named_by_a_test() -> None:
    """Each module is tested at its own interface."""
    named: set[str] = set()
    for path in Path(__file__).parent.rglob("*.py"):
        named |= imported_files(path)
    unnamed = [name for name, path in MODULES.items() if name not in named and path.stem != "__init__"]
    assert not unnamed


def test_documented_paths_name_existing_files_once() -> None:
    drawn = (SRC.parent.parent / "docs" / "architecture.md").read_text()
    ways = drawn.split("## Four ways")[1].split("\n## ")[0].split("\n- ")[1:]
    assert len(ways) == 4
    for way in ways:
        files = re.findall(r"`(\S+\.py)`", way)
        assert len(files) > 4 and not [name for name in files if not (SRC / name).is_file() or files.count(name) > 1]


def test_only_one_file_binds_sockets() -> None:
    """Otherwise sockets could not be handed over to a new daemon, nor the last descriptors kept free."""
    for path in FILES:
        called = {
            node.func.attr
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
        }
        binds = BINDS & called
        assert not binds or str(path.relative_to(SRC)) == "io/listeners.py", f"{path.name}: {binds}"


def test_files_and_functions_are_within_size_limits() -> None:
    lines = []
    for path in FILES:
        text = path.read_text()
        assert text.count("\n") <= 450, f"{path.name} is too long"
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines.append((node.end_lineno or 0) - node.lineno + 1)
                assert lines[-1] <= 58, f"{path.name}: {node.name} is too long"
    lines.sort()
    assert lines[len(lines) // 2] <= 6 and lines[len(lines) * 9 // 10] <= 16
