"""What goes on by somebody's rights, of whatever kind, so that it ends with them."""

from __future__ import annotations

from collections.abc import Callable, Iterator

End = Callable[[str], None]
Leave = Callable[[], None]


class Visits:
    """Listeners, watchers and native connections, by whose they are."""

    def __init__(self) -> None:
        self._by_key: dict[str, dict[int, End]] = {}
        self._number = 0

    def __iter__(self) -> Iterator[str]:
        return iter(list(self._by_key))

    def enter(self, key: str, end: End) -> Leave:
        """Something begins: `end` is called with the reason when its holder's rights end. Returns what to call when it
        has ended by itself."""
        self._number += 1
        number = self._number
        self._by_key.setdefault(key, {})[number] = end

        def leave() -> None:
            mine = self._by_key.get(key, {})
            mine.pop(number, None)
            if not mine:
                self._by_key.pop(key, None)

        return leave

    def end(self, key: str, why: str) -> None:
        """End everything of that holder."""
        for end in list(self._by_key.pop(key, {}).values()):
            end(why)
