"""The store: mistakes of our own are not taken for those of the disk."""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path

import pytest

from millrace.control.store import Store
from millrace.control.storefile import Defect, NotSaved
from millrace.control.writer import StoreWriter
from millrace.errors import ConfigError
from millrace.rights.model import Right
from millrace.rights.tokens import Token, digest_of

TOKEN = Token(0, "", digest_of("secret"), Right.SEE, frozenset({"alice"}), 1, 0)


def test_broken_rule_of_the_database_is_our_mistake_and_no_trouble_of_the_disk(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = Store(tmp_path / "s.db")
    store.add_token(TOKEN)
    wrong = r"^not saved: an internal error \(UNIQUE constraint failed: tokens\.digest\); the daemon's log has it"
    with pytest.raises(Defect, match=wrong) as told:
        store.add_token(TOKEN)
    assert (told.value.status, store.trouble) == (500, "")
    assert caplog.records[-1].exc_info
    with pytest.raises(Defect, match="Incorrect number of bindings"), store._writing() as db:
        db.execute("DELETE FROM tokens WHERE id = ?")
    assert not store.trouble and len(store.tokens()) == 1
    store.close()


def test_incident_of_the_store_is_for_errors_of_the_disk(tmp_path: Path) -> None:
    path, told = tmp_path / "s.db", list[str]()
    store = Store(path)
    store.add_token(TOKEN)
    again, odd = partial(store.add_token, TOKEN), partial(store.keep_sink, "alice", "music", "\ud800")
    sound = partial(store.keep_sink, "alice", "music", "Music")

    async def main() -> None:
        writer = StoreWriter(store, lambda trouble, asked_ns: told.append(trouble))
        store.trouble = "the disk was full a moment ago"
        for change, why in ((again, "UNIQUE"), (odd, "a lone surrogate")):
            with pytest.raises(ConfigError, match=why):
                await writer.write(change)
        assert not told
        path.rename(tmp_path / "elsewhere")
        with pytest.raises(NotSaved):
            await writer.write(sound)
        writer.close()

    asyncio.run(main())
    assert len(told) == 1 and "another program has moved" in told[0]
