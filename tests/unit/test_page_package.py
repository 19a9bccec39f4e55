"""The page's files: what is served to whom, and the npm package that is made of some of them."""

from __future__ import annotations

import asyncio
import gzip
import json
import re
from importlib.resources import files
from types import SimpleNamespace
from typing import Any, cast

import pytest
from aiohttp import web

from millrace.server.http import assets
from millrace.version import __version__

PAGE = files("millrace") / "page"


def served(name: str) -> web.Response:
    """The answer to a request for a file."""
    return asyncio.run(assets.serve(cast(Any, SimpleNamespace(match_info={"name": name}, headers={}))))


def ancestors(answer: web.Response) -> str:
    return answer.headers["Content-Security-Policy"].rpartition("frame-ancestors ")[2]


def test_package_has_what_it_names_and_the_products_version() -> None:
    package = json.loads((PAGE / "package.json").read_text())
    assert package["version"] == __version__ and package["license"] == "Apache-2.0"
    named = {package["main"], package["types"], *package["exports"]["."].values()}
    assert named == {"./embed.js", "./embed.d.ts"} and {name[2:] for name in named} < set(package["files"])
    assert all((PAGE / name).is_file() for name in package["files"])


def test_module_stands_alone_and_its_types_name_its_methods() -> None:
    module, types = (PAGE / "embed.js").read_text(), (PAGE / "embed.d.ts").read_text()
    assert "import " not in module
    methods = re.findall(r"^  (?:async )?([a-z]\w*)\(.*\) \{", module, re.MULTILINE)
    assert {"constructor", "close", "fullscreen", "focus", "set"} == set(methods)
    assert all(re.search(rf"^  {name}\(", types, re.MULTILINE) for name in methods)
    assert all(f"`{name}(" in (PAGE / "README.md").read_text() for name in methods if name != "constructor")


def test_desktop_may_be_framed_by_listed_origins_and_the_page_by_none() -> None:
    listed = ["https://portal.example", "http://desk.lan:8080"]
    answer = asyncio.run(assets.serve_embedded(listed))
    assert ancestors(answer) == "'self' https://portal.example http://desk.lan:8080"
    assert isinstance(answer.body, bytes)
    text = answer.body.decode()
    assert '<meta name="origins" content="https://portal.example http://desk.lan:8080">' in text
    assert ancestors(asyncio.run(assets.serve_embedded([]))) == "'self'"
    for name in ("index.html", "app.js"):
        assert ancestors(served(name)) == "'none'"
    # Both pages have the same screen.
    whole = cast(bytes, served("index.html").body).decode()
    screen = whole[whole.index('  <section id="screen"') :].partition("</section>")[0]
    assert screen in text and "<!-- screen -->" not in text


@pytest.mark.parametrize(("name", "allowed"), [("embed.js", "*"), ("app.js", None), ("index.html", None)])
def test_only_the_module_may_be_loaded_by_pages_of_other_origins(name: str, allowed: str | None) -> None:
    assert served(name).headers.get("Access-Control-Allow-Origin") == allowed


def test_page_is_as_small_as_its_documentation_says() -> None:
    """Less than 100 kB, without what only some browsers load and what portals embed."""
    apart = ("embed", "opus-decoder", "zstd-decoder", "package.json", "README.md")
    names = [file.name for file in PAGE.iterdir() if file.is_file() and not file.name.startswith(apart)]
    assert "app.js" in names and sum(len(gzip.compress((PAGE / name).read_bytes(), 9)) for name in names) < 100_000
