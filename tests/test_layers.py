"""Rules of the source tree: imports go downward only, effects stay in the outer layers, files and functions small."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

import pytest

SRC = Path(__file__).parent.parent / "src" / "millrace"
ROWS = [
    ["absent", "budget", "errors", "symptoms", "text", "units", "version"],
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
    # The façade: `millrace.connect` and the version, and `python -m millrace`.
    ["__init__", "__main__"],
]
"""The layers from the bottom up, as listed in docs/architecture.md."""
RANK = {name: rank for rank, row in enumerate(ROWS) for name in row}
# Siblings on one row never import each other, with these exceptions.
ALLOWED_SIBLINGS = {("text", "errors"), ("text", "units"), ("budget", "errors"), ("symptoms", "units")}
EFFECTS = {
    "aiohttp", "anyio", "asyncio", "concurrent", "dbm", "fcntl", "ftplib", "http", "httpx", "imaplib", "miniaudio",
    "multiprocessing", "poplib", "pty", "random", "requests", "resource", "sched", "secrets", "select", "selectors",
    "shelve", "shutil", "signal", "smtplib", "socket", "sqlite3", "ssl", "subprocess", "syslog", "tempfile", "termios",
    "threading", "time", "trio", "tty", "urllib.request", "uvloop", "wave", "webbrowser", "websockets", "xmlrpc",
}  # fmt: skip
"""Modules that do I/O, read clocks, draw random numbers or start threads."""
OPENS = {
    "__import__", "exec", "eval", "input", "io.open", "open", "os.open", "os.urandom", "print", "read_bytes",
    "read_text", "write_bytes", "write_text",
}  # fmt: skip
"""Calls that do so without such a module; those without a dot count on any object, except `open`."""
HIDDEN = {"importlib.import_module", "socketserver", "http.server"}
"""Modules and functions for no file at all: imports that no rule sees, and servers that bind their own sockets."""
EFFECT_LAYERS = {"io", "backends", "guest", "control", "server", "daemon", "client", "policy", "cli"}
EFFECT_FILES = {"lab/impair.py"}
BINDS = {
    "NamedPipeSite", "TCPSite", "UnixSite", "bind", "create_server", "create_unix_server", "run_app", "serve_forever",
    "start_server", "start_unix_server",
}  # fmt: skip
# In Python 3.11, a cancellation that comes together with what it waits for is dropped (python/cpython#86296): a task
# that was to end goes on for ever. `asyncio.timeout` has no such case.
BROKEN = {"wait_for"}
FILES = sorted(SRC.rglob("*.py"))
FILE_LINES_MAX = 450
MODULES = {"millrace." + ".".join(path.relative_to(SRC).with_suffix("").parts): path for path in FILES}


def layer(path: Path) -> str:
    relative = path.relative_to(SRC)
    return relative.parts[0] if len(relative.parts) > 1 else relative.stem


def imports(tree: ast.AST) -> set[str]:
    """The modules that are imported, and every name that is taken from one, including those in functions."""
    out: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            out |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            out |= {module, *(f"{module}.{alias.name}" for alias in node.names)}
    return out


def names(tree: ast.AST) -> set[str]:
    """Every name that is used, called or not: variables, attributes and what is imported."""
    out = {name.rpartition(".")[2] for name in imports(tree)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            out.add(node.attr)
        elif isinstance(node, ast.Name):
            out.add(node.id)
    return out


def dotted(node: ast.expr) -> str:
    """`os.open`; what does not begin with a name begins with a dot."""
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def calls(tree: ast.AST) -> set[str]:
    """What is called: `open` for a function, `os.open` for one of a module, and `read_text` for any method."""
    out: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            out.add(node.func.id)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            method = node.func.attr
            out |= {dotted(node.func), *({method} if method.startswith(("read_", "write_")) else ())}
    return out


def within(name: str, modules: set[str]) -> bool:
    return any(name == module or name.startswith(f"{module}.") for module in modules)


def faults(file: str, tree: ast.AST) -> list[str]:
    """What a file does that its layer may not."""
    own, out = layer(SRC / file), []
    for name in sorted(imports(tree)):
        if name.startswith("."):
            # What it names depends on the file, so no other check would see it.
            out.append("relative import")
        if within(name, HIDDEN):
            out.append(f"imports {name}")
        if name.split(".")[0] == "millrace":
            # Of `from millrace.io import turns` only `millrace.io` says the layer; `millrace` alone is the façade.
            other = [*name.split("."), "__init__"][1]
            if other not in RANK or other == own:
                continue
            if RANK[other] >= RANK[own] and (own, other) not in ALLOWED_SIBLINGS:
                out.append(f"{own} imports {other}")
            if other == "sim" and own not in ("lab", "cli"):
                out.append("only tests and the laboratory import sim")
        elif within(name, EFFECTS) and own not in EFFECT_LAYERS and file not in EFFECT_FILES:
            out.append(f"{own} uses {name}")
    used = names(tree)
    if own not in EFFECT_LAYERS:
        out += [f"{own} calls {name}" for name in sorted(calls(tree) & OPENS)]
        out += ["os.urandom"] * ("urandom" in used)
    if file != "io/listeners.py":
        out += [f"binds with {name}" for name in sorted(used & BINDS)]
    out += [f"uses {name}" for name in sorted(used & BROKEN)]
    return out


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SRC)))
def test_imports_go_down_and_effects_stay_out(path: Path) -> None:
    """Only `io/listeners.py` binds: otherwise sockets could not be handed over, nor the last descriptors kept free."""
    assert faults(str(path.relative_to(SRC)), parsed(path)) == []


@pytest.mark.parametrize(
    ("file", "line", "fault"),
    [
        ("wire/chunk.py", "from millrace import server", "wire imports server"),
        ("wire/chunk.py", "from ..server import http", "relative import"),
        ("wire/chunk.py", "from . import pulse", "relative import"),
        ("wire/chunk.py", "import millrace.control.worker", "wire imports control"),
        ("wire/chunk.py", "def f():\n    from millrace.io.turns import Turns", "wire imports io"),
        ("wire/chunk.py", "import aiohttp.web", "wire uses aiohttp.web"),
        ("wire/chunk.py", "import sqlite3", "wire uses sqlite3"),
        ("wire/chunk.py", "from urllib import request", "wire uses urllib.request"),
        ("wire/chunk.py", "open('x')", "wire calls open"),
        ("graph/graph.py", "import os\nos.open('x', 0)", "graph calls os.open"),
        ("graph/graph.py", "Path('x').read_text()", "graph calls read_text"),
        ("graph/graph.py", "from os import urandom", "os.urandom"),
        ("control/worker.py", "from millrace.sim.rig import Rig", "only tests and the laboratory import sim"),
        ("server/http/app.py", "from asyncio import start_server as s", "binds with start_server"),
        ("server/http/app.py", "create_server(1)", "binds with create_server"),
        ("server/http/app.py", "partial(one.bind, 1)", "binds with bind"),
        ("server/http/app.py", "from socketserver import TCPServer", "imports socketserver"),
        ("client/bus.py", "await asyncio.wait_for(one, 1)", "uses wait_for"),
        ("client/bus.py", "from asyncio import wait_for as w", "uses wait_for"),
        ("cli/entry.py", "from importlib import import_module", "imports importlib.import_module"),
    ],
)
def test_each_rule_is_held(file: str, line: str, fault: str) -> None:
    assert fault in faults(file, ast.parse(line))


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


@cache
def imported_files(path: Path) -> set[str]:
    """The files of Millrace that a file imports, including imports in functions and under TYPE_CHECKING."""
    return imports(parsed(path)) & MODULES.keys()


def test_files_import_each_other_in_no_cycle() -> None:
    reached = {name: set(imported_files(path)) for name, path in MODULES.items()}
    for middle, beyond in reached.items():
        for others in reached.values():
            if middle in others:
                others |= beyond
    assert not [name.removeprefix("millrace.") for name, others in reached.items() if name in others]


def test_each_module_is_named_by_a_test() -> None:
    """Each module is tested at its own interface. What scenes, helpers and the fuzzer import is no test of it."""
    named: set[str] = set()
    for path in Path(__file__).parent.rglob("test_*.py"):
        named |= imports(ast.parse(path.read_text())) & MODULES.keys()
    unnamed = [name for name, path in MODULES.items() if name not in named and path.stem != "__init__"]
    assert not unnamed


READ_BY_OTHERS = {"_fields_", "_data_received_cb"}
"""Private names that ctypes and aiohttp read."""


def test_private_names_are_used() -> None:
    """What nobody uses is no longer known to be right, and is read by everybody."""
    found = Counter(word for path in FILES for word in re.findall(r"\b_\w+", path.read_text()))
    made: set[str] = set()
    for path in FILES:
        for node in definitions(parsed(path)):
            targets = [*getattr(node, "targets", ()), *([node.target] if isinstance(node, ast.AnnAssign) else ())]
            made |= {name.id for one in targets for name in ast.walk(one) if isinstance(name, ast.Name)}
            made.add(getattr(node, "name", ""))
        made |= {one.attr for one, _ in assigned(definitions(parsed(path))) if is_own(one)}
    assert not [name for name in made - READ_BY_OTHERS if re.match(r"_[a-zA-Z]", name) and found[name] == 1]


def test_documented_paths_name_existing_files_once() -> None:
    drawn = (SRC.parent.parent / "docs" / "architecture.md").read_text()
    ways = drawn.split("## Five ways")[1].split("\n## ")[0].split("\n- ")[1:]
    assert len(ways) == 5
    for way in ways:
        files = re.findall(r"`(\S+\.py)`", way)
        assert len(files) > 4 and not [name for name in files if not (SRC / name).is_file() or files.count(name) > 1]


TABLES = {"Iterable", "Mapping", "Sequence", "deque", "dict", "list", "set", "tuple"}


def types(annotation: ast.expr | None) -> set[str]:
    """The types that an annotation names; none if it is a table or list of them."""
    if annotation is None or (isinstance(annotation, ast.Subscript) and getattr(annotation.value, "id", "") in TABLES):
        return set()
    return {node.id for node in ast.walk(annotation) if isinstance(node, ast.Name)}


@cache
def callback_types() -> set[str]:
    """`Callable`, its aliases, and protocols that are called."""
    out = {"Callable"}
    for node in [node for path in FILES for node in parsed(path).body]:
        if isinstance(node, ast.ClassDef) and "Protocol" in types(node.bases[0] if node.bases else None):
            out |= {node.name} if any(getattr(one, "name", "") == "__call__" for one in node.body) else set()
        elif isinstance(node, ast.Assign | ast.AnnAssign) and "Callable" in types(node.value):
            target = node.targets[0] if isinstance(node, ast.Assign) else node.target
            out |= {target.id} if isinstance(target, ast.Name) else set()
    return out


@cache
def definitions(tree: ast.AST) -> list[ast.AST]:
    """Its classes, functions and assignments."""
    kinds = ast.ClassDef | ast.FunctionDef | ast.Assign | ast.AnnAssign
    return [node for node in ast.walk(tree) if isinstance(node, kinds)]


def assigned(nodes: Iterable[ast.AST]) -> Iterator[tuple[ast.Attribute, ast.expr | None]]:
    """The attributes that are assigned, each with its value."""
    for node in nodes:
        if isinstance(node, ast.Assign | ast.AnnAssign):
            for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                targets = target.elts if isinstance(target, ast.Tuple) else [target]
                values = node.value.elts if isinstance(node.value, ast.Tuple) else [node.value] * len(targets)
                for one, value in zip(targets, values, strict=False):
                    if isinstance(one, ast.Attribute):
                        yield one, value


def is_own(attribute: ast.Attribute) -> bool:
    return isinstance(attribute.value, ast.Name) and attribute.value.id in ("self", "cls")


def declared(node: ast.AST) -> Iterator[str]:
    """Attributes that are callbacks: annotated as such, or given as such to a method."""
    if isinstance(node, ast.ClassDef):
        for one in node.body:
            if isinstance(one, ast.AnnAssign) and types(one.annotation) & callback_types():
                yield getattr(one.target, "id", "")
    elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Attribute) and is_own(node.target):
        if types(node.annotation) & callback_types():
            yield node.target.attr
    elif isinstance(node, ast.FunctionDef):
        parameters = [*node.args.args, *node.args.kwonlyargs]
        given = {one.arg for one in parameters if types(one.annotation) & callback_types()}
        if given:
            yield from (
                one.attr for one, value in assigned(ast.walk(node)) if is_own(one) and getattr(value, "id", "") in given
            )


@cache
def callbacks() -> set[str]:
    found = {name for path in FILES for node in definitions(parsed(path)) for name in declared(node)}
    # Elsewhere, a time is a number.
    return {name for name in found if not name.endswith("_ns")}


def slots(tree: ast.AST) -> list[str]:
    """The callbacks of other objects that are set here."""
    return [ast.unparse(one) for one, _ in assigned(definitions(tree)) if one.attr in callbacks() and not is_own(one)]


NUMBERS = {"state.refused"}
"""Attributes that have the name of a callback."""


def test_callbacks_are_given_to_who_calls_them_and_never_set_from_outside() -> None:
    """Otherwise nothing says who else may set it, nor that it is set before it is called."""
    for path in FILES:
        found = set(slots(parsed(path))) - NUMBERS
        assert not found, f"{path.relative_to(SRC)}: {found}"
    for line in ("bus.on_claim = told", "a, bus.on_claim = 1, told", "module.end: Callable[[], None] = loop.end"):
        assert slots(ast.parse(line)), line
    assert {"on_event", "on_claim", "_relieved", "greet", "_cut", "_demand_place"} <= callbacks()


def test_files_and_functions_are_within_size_limits() -> None:
    lines = []
    for path in FILES:
        text = path.read_text()
        assert text.count("\n") <= FILE_LINES_MAX, f"{path.name} is too long"
        for node in ast.walk(parsed(path)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines.append((node.end_lineno or 0) - node.lineno + 1)
                assert lines[-1] <= 58, f"{path.name}: {node.name} is too long"
    lines.sort()
    assert lines[len(lines) // 2] <= 6 and lines[len(lines) * 9 // 10] <= 16


@pytest.mark.parametrize("folder", ["tests", "bench", "examples"])
def test_files_outside_the_package_are_within_the_size_limit(folder: str) -> None:
    lines = {str(path): path.read_text().count("\n") for path in (SRC.parent.parent / folder).rglob("*.py")}
    assert lines and not [path for path, count in lines.items() if count > FILE_LINES_MAX]
