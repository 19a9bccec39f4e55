"""The native client: play, record, inspect and control, from a program on the same machine.

    async with millrace.connect() as bus:
        async with bus.play(rate=48_000, channels=2) as stream:
            await stream.write(samples)
            await stream.drain()

Sound moves through memory shared with the daemon; only control messages go through the socket (docs/native.md). Use
everything here from one event loop.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import socket
import sys
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from millrace.client.nativestream import NativeStream, Playing, Recording
from millrace.errors import (
    BY_WORD,
    GraphError,
    MillraceError,
    NoDaemon,
    PeerLost,
)
from millrace.io.descriptors import Descriptors
from millrace.io.fdstream import FdStream
from millrace.text import quoted
from millrace.wire.native.messages import (
    Call,
    Fault,
    Hello,
    Message,
    Notice,
    Objects,
    Reply,
    Shown,
    Wait,
    Welcome,
    begun,
    shown,
)
from millrace.wire.native.session import NativeWire

TakeFds = Callable[[Any, Descriptors], Any]
WELCOME_S = 20.0
"""Timeout for the daemon's first message."""
ASKED_S = 40.0
"""Timeout once the daemon has said that somebody must approve the connection. Approval requests expire sooner."""
CALL_S = 60.0
"""Timeout of a call. Longer than `ASKED_S`, because the answer may depend on somebody's decision."""
BACKLOG_RETRY_S = 0.05
"""Delay between connection attempts while the socket's backlog is full."""
CHANGES_MAX = 100_000
"""A watcher that leaves more changes than this unread ends the connection: its queue would only grow."""
S = TypeVar("S", bound=NativeStream)


@dataclass(frozen=True, slots=True)
class Object:
    """One object of the registry. `props` is what `millrace ls --json` shows for it."""

    id: int
    kind: str
    guest: str
    props: dict[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """The name that commands take, such as stream/7."""
        return str(self.props.get("id", f"{self.kind}/{self.id}"))


@dataclass(frozen=True, slots=True)
class Change:
    """`what` is added, changed, removed, or synced (once, after all existing objects have been reported)."""

    what: str
    object: Object | None = None


class _Waiting:
    """A call that awaits its reply."""

    def __init__(self, future: asyncio.Future[Any], on_fds: TakeFds | None) -> None:
        self.future, self.on_fds = future, on_fds


# Ownership of descriptors: those that arrive with a message are in a `Descriptors` while the message is being
# processed, and any that have not been taken over at the end are closed. A reply that opens a stream carries three of
# them, so it must be processed even if the caller has stopped waiting (cancelled, timed out): such calls stay in
# `_calls`, and the stream is closed again as soon as it turns out to have begun.
#
# The handshake has a deadline of its own. It is short until the daemon says that a person must decide, which is proof
# that it is alive, and is extended only once, so a daemon can't hold a caller for ever by repeating that.
class Bus:
    """A connection to the daemon. Make one with `connect` and use it with `async with`."""

    def __init__(
        self, path: Path, name: str, token: str, guest: str = "",
        on_claim: Callable[[str, bool], None] = lambda name, have: None,
        on_wait: Callable[[str, str], None] = lambda request, what: None,
    ) -> None:  # fmt: skip
        """`guest` is the guest whose own socket `path` is. For `on_claim` and `on_wait` see `connect`."""
        self._guest, self.on_claim, self.on_wait = guest, on_claim, on_wait
        self._path, self._name, self._token = path, name, token
        self._wire = NativeWire(daemon=False, close_fd=os.close)
        self._serials = itertools.count(1)
        self._calls: dict[int, _Waiting] = {}
        self._streams: dict[int, NativeStream] = {}
        self._watches: list[asyncio.Queue[Change]] = []
        self._connection: FdStream | None = None
        self._welcomed: asyncio.Future[Welcome] | None = None
        self._timeout: asyncio.Timeout | None = None
        """The handshake's timeout. It is extended once, at the daemon's first `Wait`, and is None after that."""
        self._lost: Exception | None = None
        self._synced = False
        self._watching = False
        self._asking = asyncio.Lock()
        self.objects: dict[int, Object] = {}
        """The registry by object number; filled while `watch` runs."""
        self.you = ""
        self.rights: tuple[str, ...] = ()
        self.guests: tuple[str, ...] = ()

    # -- the connection ----------------------------------------------------------------------

    async def __aenter__(self) -> Bus:
        self._timeout = timeout = asyncio.timeout(WELCOME_S)
        try:
            async with timeout:
                welcome = await self._greeted(await self._connected())
        except TimeoutError:
            self.close()
            raise NoDaemon(f"the daemon at {self._path} does not answer; it may be stopped or busy") from None
        except BaseException:
            self.close()
            raise
        self.you, self.rights, self.guests = welcome.you, tuple(welcome.rights), tuple(welcome.guests)
        return self

    async def _connected(self) -> socket.socket:
        """Connect to the socket; retry while its backlog is full."""
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.setblocking(False)
            while True:
                try:
                    sock.connect(str(self._path))
                    return sock
                except BlockingIOError:
                    await asyncio.sleep(BACKLOG_RETRY_S)
        except OSError as error:
            sock.close()
            if self._guest and isinstance(error, FileNotFoundError) and _answers(self._path.parent.parent):
                raise GraphError(
                    f"your daemon has no guest {quoted(self._guest)}; `millrace ls` lists its guests"
                ) from None
            raise NoDaemon(f"no daemon answers at {self._path} ({error.strerror}); start `millrace serve`") from None
        except BaseException:
            sock.close()
            raise

    async def _greeted(self, sock: socket.socket) -> Welcome:
        self._welcomed = asyncio.get_running_loop().create_future()
        self._wire.send_message(Hello(name=self._name, token=self._token))
        self._connection = FdStream(sock, self._wire, self._after, self._ended, self._wire.receive_fds)
        return await self._welcomed

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the connection; its streams end with it."""
        if self._connection is not None:
            self._connection.close()
        self._ended(PeerLost("the connection was closed locally"))

    def _ended(self, why: Exception) -> None:
        if self._lost is not None:
            return
        self._lost = why
        for waiting in self._calls.values():
            if not waiting.future.done():
                waiting.future.set_exception(why)
        self._calls.clear()
        if self._welcomed is not None and not self._welcomed.done():
            self._welcomed.set_exception(why)
        for stream in list(self._streams.values()):
            stream.ended(str(why))
        self._streams.clear()
        for queue in self._watches:
            queue.put_nowait(Change("lost"))
        self._wire.close()

    def _after(self) -> None:
        for message, fds in self._wire.events():
            with Descriptors(fds) as given:
                self._take(message, given)

    def _take(self, message: Message, fds: Descriptors) -> None:
        if isinstance(message, Reply | Fault):
            self._answered(message, fds)
        elif isinstance(message, Objects):
            self._told(message)
        elif isinstance(message, Notice):
            self._noticed(message)
        elif isinstance(message, Wait):
            self._told_to_wait(message)
        elif isinstance(message, Welcome) and self._welcomed is not None and not self._welcomed.done():
            self._welcomed.set_result(message)

    def _told_to_wait(self, message: Wait) -> None:
        timeout, self._timeout = self._timeout, None
        if timeout is not None and self._welcomed is not None and not self._welcomed.done():
            timeout.reschedule(asyncio.get_running_loop().time() + ASKED_S)
        self.on_wait(message.request, message.what)

    def _answered(self, message: Reply | Fault, fds: Descriptors) -> None:
        if isinstance(message, Fault) and message.serial == 0:
            kind = BY_WORD.get(message.code, PeerLost)
            self._ended(kind(message.message))
            return
        waiting = self._calls.pop(message.serial, None)
        if waiting is None:
            return
        if waiting.future.done():
            if waiting.on_fds is not None and isinstance(message, Reply):
                self._give_back(message.value)
        elif isinstance(message, Fault):
            waiting.future.set_exception(BY_WORD.get(message.code, MillraceError)(message.message))
        elif waiting.on_fds is not None:
            try:
                waiting.future.set_result(waiting.on_fds(message.value, fds))
            except Exception as error:
                waiting.future.set_exception(error)
                # Raised again for `FdStream`, which ends the connection.
                raise
        else:
            waiting.future.set_result(message.value)

    def _give_back(self, value: Any) -> None:
        """Close a stream whose caller has stopped waiting for it, or the daemon would keep it."""
        if self._connection is not None:
            self._wire.send_message(Call(next(self._serials), "close", {"stream": begun(value).stream}))
            self._connection.flush_soon()

    def _noticed(self, notice: Notice) -> None:
        if notice.stream == 0:
            self.on_claim(notice.detail, notice.what == "claim-got")
            return
        stream = self._streams.get(notice.stream)
        if stream is not None:
            stream.noticed(notice.what, notice.detail)
            if notice.what == "ended":
                del self._streams[notice.stream]

    @property
    def lost(self) -> Exception | None:
        """Why the connection ended; None while it is open."""
        return self._lost

    # -- calls -------------------------------------------------------------------------------

    async def call(self, method: str, *, timeout_s: float | None = CALL_S, **args: Any) -> Any:
        """Run any of the daemon's commands; raises a MillraceError if it is refused.

        Raises PeerLost if no answer comes within `timeout_s` (None: wait forever). The daemon may still run the command
        later, and the connection stays open.
        """
        return await self._call(method, args, None, timeout_s)

    async def _call(self, method: str, args: dict[str, Any], on_fds: TakeFds | None, timeout_s: float | None) -> Any:
        if self._lost is not None or self._connection is None:
            raise self._lost or PeerLost("not connected: use `async with`")
        serial = next(self._serials)
        waiting = self._calls[serial] = _Waiting(asyncio.get_running_loop().create_future(), on_fds)
        self._wire.send_message(Call(serial, method, args))
        self._connection.flush()
        try:
            async with asyncio.timeout(timeout_s):
                return await waiting.future
        except TimeoutError:
            raise PeerLost(f"no answer to {method} within {timeout_s:g} s; is the daemon stopped, or busy?") from None
        finally:
            # A stream that begins after its caller has given up must be closed, so that answer is still awaited.
            if on_fds is None:
                self._calls.pop(serial, None)

    async def set(self, target: str, guest: str | None = None, **settings: str | bool | float) -> None:
        """Change settings, such as `set("sink/millrace", volume="50%")`."""
        await self.call("set", target=target, settings=settings, guest=guest)

    async def move(self, target: str, to: str, guest: str | None = None) -> None:
        """Move a stream or a listener to another sink."""
        await self.call("move", target=target, to=to, guest=guest)

    async def claim(self, name: str, replace: bool = False) -> bool:
        """Claim a name. Returns whether this connection holds it now; if not, it is queued, and `on_claim` reports."""
        answer = await self.call("claim", name=name, replace=replace)
        return bool(answer["have"])

    # -- streams -----------------------------------------------------------------------------

    def play(self, **options: Any) -> Playing:
        """A stream into a sink; for the options see `NativeStream.__aenter__`. Use it with `async with`."""
        return Playing(self._open, options)

    def record(self, at: str = "", **options: Any) -> Recording:
        """A stream from a sink's monitor (`sink/millrace`) or a source (`source/microphone`, the default)."""
        return Recording(self._open, options | {"at": at})

    async def _open(self, method: str, stream: NativeStream, args: dict[str, Any]) -> None:
        if method not in ("play", "record"):
            await self._call(method, args, None, CALL_S)
            return

        def began(value: Any, fds: Descriptors) -> int:
            made = begun(value)
            stream.began(made, fds)
            self._streams[made.stream] = stream
            return made.stream

        await self._call(method, args, began, CALL_S)

    # -- the registry ------------------------------------------------------------------------

    # What is known is queued and the queue registered without an await in between, so no change is missed or reported
    # twice. The daemon is asked for its objects only once per connection; later watchers start from `objects`.
    async def watch(self, kinds: Iterable[str] | None = None) -> AsyncIterator[Change]:
        """Yield every existing object, then `synced`, then every change. Raises PeerLost when the connection ends."""
        queue: asyncio.Queue[Change] = asyncio.Queue()
        wanted = None if kinds is None else frozenset(kinds)
        for known in self.objects.values():
            queue.put_nowait(Change("added", known))
        if self._synced:
            queue.put_nowait(Change("synced"))
        self._watches.append(queue)
        try:
            await self._ask_for_objects()
            while True:
                change = await queue.get()
                if change.what == "lost":
                    raise self._lost or PeerLost("the connection ended")
                if change.object is None or wanted is None or change.object.kind in wanted:
                    yield change
        finally:
            self._watches.remove(queue)

    # Watchers that begin meanwhile wait for the same answer. If it is a failure, the next of them asks.
    async def _ask_for_objects(self) -> None:
        """Have the daemon report its objects, unless it does already."""
        async with self._asking:
            if not self._watching:
                await self.call("watch", kinds=None)
                self._watching = True

    def _told(self, message: Objects) -> None:
        changes: list[Change] = []
        # Removals first, so that a change caused by one never refers to an object that no longer exists.
        for id_ in message.gone:
            old = self.objects.pop(id_, None)
            if old is not None:
                changes.append(Change("removed", old))
        for raw in message.there:
            made = _object(shown(raw))
            changes.append(Change("changed" if made.id in self.objects else "added", made))
            self.objects[made.id] = made
        if message.synced and not self._synced:
            self._synced = True
            changes.append(Change("synced"))
        for queue in self._watches:
            for change in changes:
                queue.put_nowait(change)
            if queue.qsize() > CHANGES_MAX:
                self._ended(PeerLost(f"{CHANGES_MAX} changes were not read"))
                return


def _object(told: Shown) -> Object:
    return Object(told.number, told.kind, told.guest, told.view)


def _answers(runtime: Path) -> bool:
    """Whether a daemon listens in this directory."""
    from millrace.io.paths import NATIVE_SOCKET

    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.setblocking(False)
        try:
            sock.connect(str(runtime / NATIVE_SOCKET))
        except BlockingIOError:
            return True
        except OSError:
            return False
    return True


def connect(
    path: str | Path | None = None, *, guest: str | None = None, name: str = "", token: str = "",
    on_claim: Callable[[str, bool], None] = lambda name, have: None,
    on_wait: Callable[[str, str], None] = lambda request, what: None,
) -> Bus:  # fmt: skip
    """A connection to this user's daemon, for use with `async with`.

    The socket is `path`, or else $MILLRACE_SOCKET, `guest`'s own socket, or the daemon's, in this order. `name` is
    shown to users. Entering raises NoDaemon (a PeerLost) if no daemon answers, GraphError if there is no
    such guest, and RightsError if access is denied. `on_claim` is called when a claimed name is acquired (True) or
    lost, `on_wait` when somebody must approve a request, with its key and what it is for.
    """
    from millrace.io.paths import NATIVE_SOCKET, runtime_dir

    given = path or os.environ.get("MILLRACE_SOCKET")
    if given:
        where = Path(given)
    else:
        where = runtime_dir() / (f"{guest}/native" if guest else NATIVE_SOCKET)
    called = name or Path(sys.argv[0] or "python").name
    return Bus(where, called, token, "" if given else guest or "", on_claim, on_wait)
