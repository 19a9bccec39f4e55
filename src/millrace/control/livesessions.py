"""Live sessions of every kind, so that each ends when the rights it runs on do."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

End = Callable[[str], None]
Lose = Callable[[str], None]
Leave = Callable[[], None]


# Revoking a right must reach everything that runs on it, over any protocol. So each session is registered in the same
# step in which its rights are checked for the last time (`Access.enter`), with no await in between in which a
# revocation could miss it. A session is removed before its `end` is called, so it ends only once. A browser's session
# registers under two keys, because it ends with its token and also when that browser signs out.
class LiveSessions:
    """Listeners, watchers and native connections, by principal and by the browser session they came through."""

    def __init__(self) -> None:
        self._by_key: dict[str, dict[int, tuple[Leave, End, Lose]]] = {}
        self._number = 0

    def __iter__(self) -> Iterator[str]:
        return iter(list(self._by_key))

    def enter(self, keys: Sequence[str], end: End, lose: Lose) -> Leave:
        """Register a session under `keys`. Returns a function to call when the session ends by itself.

        `end` is called with a reason when the rights behind one of the keys end, `lose` with a guest when the rights in
        that guest do.
        """
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
        """End everything that runs under this principal or browser session."""
        for leave, end, _ in list(self._by_key.get(key, {}).values()):
            leave()
            end(why)

    def lose(self, key: str, guest: str) -> None:
        """Withdraw one guest from everything that runs under this principal."""
        for _, _, lose in list(self._by_key.get(key, {}).values()):
            lose(guest)
