"""What goes on by somebody's rights, of whatever kind, so that it ends with them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

End = Callable[[str], None]
Lose = Callable[[str], None]
Leave = Callable[[], None]


class LiveSessions:
    """Listeners, watchers and native connections, by whose they are and by the browser's session that they came by."""

    def __init__(self) -> None:
        self._by_key: dict[str, dict[int, tuple[Leave, End, Lose]]] = {}
        self._number = 0

    def __iter__(self) -> Iterator[str]:
        return iter(list(self._by_key))

    def enter(self, keys: Sequence[str], end: End, lose: Lose) -> Leave:
        """Something begins: `end` is called with the reason when the rights end that one of `keys` stands for, `lose`
        with a guest when those in that one do. Returns what to call when it has ended by itself."""
        self._number += 1
        number = self._number

        def leave() -> None:
            for key in keys:
                mine = self._by_key.get(key, {})
                mine.pop(number, None)
                if not mine:
                    self._by_key.pop(key, None)

        for key in keys:
            self._by_key.setdefault(key, {})[number] = leave, end, lose
        return leave

    def end(self, key: str, why: str) -> None:
        """End everything of that principal, or by that session."""
        for leave, end, _ in list(self._by_key.get(key, {}).values()):
            leave()
            end(why)

    def lose(self, key: str, guest: str) -> None:
        """Everything of that principal goes on without that guest."""
        for _, _, lose in list(self._by_key.get(key, {}).values()):
            lose(guest)
