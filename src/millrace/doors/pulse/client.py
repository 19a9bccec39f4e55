"""One PulseAudio connection: authentication, then dispatch of commands to their handlers."""

from __future__ import annotations

import hmac
import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from millrace.budget import MIB, REQUESTS, UNREAD
from millrace.doors.pulse.clientstreams import ClientStreams
from millrace.doors.pulse.door import CLIENTS_MAX, PulseDoor
from millrace.doors.pulse.formats import REFUSALS, CommandError, code_of, prop_text
from millrace.doors.pulse.record import RecordStream
from millrace.doors.pulse.rights import NEEDS, OF_INPUT, OF_OUTPUT
from millrace.doors.pulse.state import ClientState, weights
from millrace.doors.pulse.subscriptions import Subscription
from millrace.dsp.convert import Buffer
from millrace.errors import BudgetError, GraphError, MillraceError, RemoteProtocolError
from millrace.rights.grants import Identity, Permission, Verdict
from millrace.rights.model import Right
from millrace.rights.prompts import Answer, Prompt
from millrace.symptoms import violation
from millrace.text import cut_name
from millrace.units import HostNs
from millrace.wire.contract import UNRUN, Runner
from millrace.wire.pulse.constants import (
    COOKIE_BYTES,
    PROTOCOL_VERSION,
    VERSION_MIN,
    Change,
    Command,
    Err,
    Facility,
)
from millrace.wire.pulse.session import Block, PulseSession, RecordsReply, Refused, Request

log = logging.getLogger("millrace.pulse")
Handler = Callable[["PulseClient", Request], Iterator[None] | None]
"""A handler that takes long returns an iterator. Its steps are completed before the client's next request is read."""
ASKED_FACTOR = 16
"""Memory of a request that waits for a prompt, per byte on the wire: a short property becomes several objects."""
ANSWERS_MAX = 8 * MIB
"""Replies that may be queued for a client before it reads any of them."""
ANSWER_FREE = 64 * 1024
"""Replies up to this size are not charged, so that clients can still query a guest that has used up its budget."""
_ENDS_SOUND = frozenset({Command.DELETE_PLAYBACK_STREAM, Command.CORK_PLAYBACK_STREAM, Command.FLUSH_PLAYBACK_STREAM})
_BEFORE_AUTH = frozenset({Command.AUTH, Command.EXIT})


# A connection goes through these states. *Unknown*: only AUTH and EXIT are served. *Known*: its credentials or cookie
# are right, so it is no longer subject to the login timeout. *Ready*: the guest lets it connect; it is registered
# with the door and others see it. *Closing*: nothing more is parsed, and what is queued for it is still sent.
# *Closed*: the socket is gone; what it owned is removed, in turns. A prompt may stay between known and ready for as
# long as it is unanswered.
#
# Commands and blocks are processed strictly in the order in which they were sent: libpulse corrects its write index
# on that assumption. A request that takes many steps is `_begun`, and until its iterator ends nothing after it is
# parsed; the bytes stay with the runner, which reads no more from the socket. So one request at most is half done at
# any time. Replies need not keep the order. A drain, a prompt or a change that waits for the disk is answered later,
# by its tag.
class PulseClient(ClientStreams):
    """The door's side of one connection; implements the sans-IO contract.

    Programs of the daemon's own user need no cookie. A connection starts with a new `state`, or continues from the
    state of an earlier one.
    """

    def __init__(
        self, door: PulseDoor, handlers: Mapping[Command, Handler], state: ClientState, runner: Runner = UNRUN
    ) -> None:
        if len(door.clients) >= CLIENTS_MAX:
            raise GraphError(f"guest {door.graph.name} already has {CLIENTS_MAX} connections, the maximum")
        super().__init__(door, door.admission.account(weights(state), subject=state.subject), state)
        self.index, self.props, self.extensions = state.index, state.props, state.extensions
        self.subject = self.program = state.subject
        self.closing = False
        self.congested = False
        self.unread_since_ns: HostNs = 0
        self.wake, self.over = runner.wake, runner.over
        self.now_ns: HostNs = 0
        self.subscription = Subscription(door.news, self.index, lambda: self.wake(), state.subscribed)
        self._handlers = handlers
        self._wire = PulseSession(state.wire)
        self._partial_bytes = state.wire.partial_bytes
        self.account.fits("command", self._partial_bytes, REQUESTS)
        self._asking: Request | None = None
        self._begun: tuple[Request, Iterator[None]] | None = None
        self._storing: dict[int, Request] = {}
        if state.ready:
            self.keep_index()
            self._enter()
            self.resume_streams(self)
            door.end_forbidden_of(self)
        asked, state.asked = state.asked, {}
        for data in asked.values():
            self._request(self._wire.request_of(data))
            self._go_on()

    # -- the sans-IO contract --------------------------------------------------------------

    def receive(self, data: Buffer, now_ns: HostNs) -> int:
        """Process bytes until the turn is over; return how many. RemoteProtocolError ends this connection."""
        self.now_ns = now_ns
        wire, view, at = self._wire, memoryview(data), 0
        frames, end = wire.state, len(view)
        while (self._begun is None or self._go_on()) and at < end and not self.closing:
            at = wire.receive_some(view, at)
            if frames.partial_bytes != self._partial_bytes:
                self._hold_partial()
            for event in wire.events():
                if isinstance(event, Block):
                    self._block(event)
                elif isinstance(event, Request):
                    self._request(event)
                elif isinstance(event, Refused):
                    wire.send_error(event.tag, event.code)
            if frames.unsent_bytes > ANSWERS_MAX:
                raise BudgetError(
                    f"the client requested more than {ANSWERS_MAX // MIB} MiB of replies without reading any"
                )
            if at < end and self.over():
                break
        return at

    # The length of a command is known from its header, and is charged from then on: a client must not make the daemon
    # keep part of a long command that its guest has no room for.
    def _hold_partial(self) -> None:
        """Charge a partial command to the guest from its header on."""
        self._partial_bytes = self.state.wire.partial_bytes
        self.account.hold("command", self._partial_bytes, REQUESTS)

    @property
    def known(self) -> bool:
        """See `Connection`."""
        return self.state.known

    @property
    def unfinished(self) -> bool:
        """See `Connection`."""
        return self._begun is not None

    def _go_on(self) -> bool:
        """Continue the request in progress; return whether it is done."""
        if self._begun is None:
            return True
        request, steps = self._begun
        try:
            for _ in steps:
                if self.over():
                    return False
        except REFUSALS as error:
            self._refuse(request, error)
        self._begun = None
        self.account.hold("answer", 0)
        return True

    def data_to_send(self) -> bytes:
        """Bytes to write now, including subscription events.

        Events wait for the reply in progress, since a list must not name an object after the event of its removal.
        """
        if self._begun is None:
            for kind, index in self.subscription.take():
                self._wire.send_notice(Command.SUBSCRIBE_EVENT, event=kind, index=index)
        return self._wire.data_to_send()

    @property
    def watched(self) -> bool:
        """See `Connection`: connections that record are watched."""
        return bool(self.records)

    def next_timeout(self) -> HostNs | None:
        """The protocol has no server-side timers."""
        return None

    def handle_timeout(self, now_ns: HostNs) -> None:
        """See `next_timeout`."""
        self.now_ns = now_ns

    def violated(self, error: RemoteProtocolError) -> None:
        """See `Connection`."""
        self.door.admission.report(violation(self.door.graph.name, f"client/{self.index}", error))

    def may_wait(self, waiting_bytes: int) -> bool:
        """See `Connection`: charged to the guest."""
        return self.account.fits("waiting", waiting_bytes, UNREAD)

    # The request in progress is finished, not dropped: it may have moved half of a sink's streams. The client stays
    # in `door.clients` until its last stream is gone, so that every listed stream names a client that exists, and the
    # removal of a client is the last event about it. A prompt that is answered between two turns may still create a
    # stream, which the next turn removes.
    def closed(self) -> bool:
        """The connection has ended: finish the request in progress, then remove as many streams as the turn allows."""
        try:
            if not self._go_on():
                return False
        except Exception:
            # A bug in a request must not keep its client's streams and memory for ever.
            log.exception("guest %s: a request of client/%d failed", self.door.graph.name, self.index)
            self._begun = None
        self.account.close()
        self.uploads.clear()
        self.subscription.close()
        while self.streams or self.records:
            if self.streams:
                self.forget_playback(next(iter(self.streams.values())))
            else:
                self.forget_record(next(iter(self.records.values())))
            if self.over() and (self.streams or self.records):
                return False
        self.door.admission.prompts.forget(self.subject)
        if self.door.clients.pop(self.index, None) is not None:
            self.door.publish(Facility.CLIENT, Change.REMOVE, self.client_index)
            self.door.host.client_changed("remove", self)
        self.wake, self.over = UNRUN.wake, UNRUN.over  # The runner's methods: with this, the runner would be a cycle.
        return True

    # What is half done can't be put into a value, so it is finished here; what waits for others is begun again where
    # the connection continues. Events that have yet to be distributed belong to the door, so that is done first.
    def freeze(self, received: bytes = b"") -> ClientState:
        """Detach from the door; return the state, with which another connection continues. The client notices nothing.

        The runner has `received` these bytes and not passed them on.
        """
        state = self.state
        self.wake, self.over = UNRUN.wake, UNRUN.over
        self._go_on()
        for _ in self.door.news.spreading():
            pass
        storing, self._storing = self._storing, {}
        state.asked |= {number: self._wire.encoded(request) for number, request in storing.items()}
        state.received = received
        self.freeze_streams()
        self.subscription.leave()
        self.door.admission.prompts.forget(self.subject)
        if self.door.clients.pop(self.index, None) is not None:
            self.door.host.client_changed("remove", self)
        self.account.close()
        self.closing = True
        return state

    # -- dispatch ----------------------------------------------------------------------------

    def _request(self, request: Request) -> None:
        handler = self._handlers.get(request.command)
        if not self.state.ready and request.command not in _BEFORE_AUTH:
            self._wire.send_error(request.tag, Err.ACCESS)
            return
        if handler is None:
            self._wire.send_error(request.tag, Err.NOTIMPLEMENTED)
            return
        if request.command in _ENDS_SOUND:
            # Frames due by now count as played, even if this machine is late in running the cycle. Otherwise a
            # client that stops by its own clock would lose its last frames.
            self.door.graph.catch_up(self.now_ns)
        try:
            self._demand(request)
            steps = handler(self, request)
            if steps is not None:
                self._begun = request, steps
        except REFUSALS as error:
            self._refuse(request, error)

    def _refuse(self, request: Request, error: MillraceError) -> None:
        """Answer a refused request with PulseAudio's error code."""
        self._wire.send_error(request.tag, code_of(error))

    # A program always controls its own streams, whatever its guest's programs may do: the right to control is about
    # those of others.
    def _demand(self, request: Request) -> None:
        """Check the right that a command needs (`rights.NEEDS`): PA_ERR_ACCESS without it."""
        needed = NEEDS.get(request.command)
        if needed is not None and not self._own(request):
            self.demand(needed, request.command.name)

    def demand(self, needed: Right, what: str) -> None:
        """PA_ERR_ACCESS unless the programs of this guest have the right."""
        self.door.admission.demand_right(needed, self.subject, what)

    # The connection was admitted for the process that opened it. If another program writes on it, the answer to a
    # prompt does not count for that program, so the connection stays only if the rules allow it outright.
    def identified(self, identity: Identity) -> None:
        """The program at the other end has been identified."""
        if self.door.admission.identify(self.subject, identity):
            self.door.end_forbidden_of(self, Verdict.ALLOW)

    def _own(self, request: Request) -> bool:
        """Whether the request concerns one of the client's own streams."""
        if request.command in OF_INPUT:
            stream = self.door.input_at(request.fields["index"])
            return any(own.node is stream for own in self.streams.values())
        return request.command in OF_OUTPUT and self.door.output_at(request.fields["index"]) in self.records.values()

    @property
    def recording(self) -> dict[int, RecordStream]:
        """See `clients.Client`."""
        return self.records

    @property
    def name(self) -> str:
        """What the program calls itself."""
        return cut_name(prop_text(self.props, "application.name"))

    def waits(self, prompt: Prompt) -> None:
        """See `Asker`: the protocol can't express this."""

    def await_answer(self, again: Answer) -> Answer:
        """See `Asker`."""
        state, asking = self.state, self._asking
        assert asking is not None
        number, data = state.next_asked, self._wire.encoded(asking)
        self.account.hold(("asked", number), ASKED_FACTOR * len(data), REQUESTS)
        state.asked[number], state.next_asked, self._asking = data, number + 1, None

        def answered(allow: bool) -> None:
            self.account.hold(("asked", number), 0)
            state.asked.pop(number, None)
            again(allow)

        return answered

    def await_stored(self, request: Request, done: Callable[[], None]) -> Answer:
        """The callback for whether a change was stored: it answers with `done` if it was, else with IO."""
        number, self.state.next_asked = self.state.next_asked, self.state.next_asked + 1
        self._storing[number] = request

        def stored(kept: bool) -> None:
            # Storing takes a while. The client may have left, or continue elsewhere, where the request is made again.
            if self._storing.pop(number, None) is None or self.door.clients.get(self.index) is not self:
                return
            if kept:
                done()
            else:
                self.fail(request, Err.IO)

        return stored

    def answered(self, request: Request, allow: bool) -> None:
        """The decision that `request` waited for. If allowed, it is dispatched again, with all its checks."""
        if allow:
            self._request(request)
        else:
            self._wire.send_error(request.tag, Err.ACCESS)
        self.wake()

    def _block(self, block: Block) -> None:
        stream = self.streams.get(block.channel)
        if stream is not None:
            stream.write(block.seek, block.offset, block.data)
            return
        upload = self.uploads.get(block.channel)
        if upload is not None:
            upload.write(block.data)

    def authenticate(self, request: Request) -> None:
        """AUTH: check peer credentials or the cookie, then negotiate the version."""
        version = request.fields["version"]
        if version < VERSION_MIN:
            raise CommandError(Err.VERSION, f"protocol version {version}; at least {VERSION_MIN} is required")
        cookie: bytes = request.fields["cookie"]
        right = len(cookie) == COOKIE_BYTES and hmac.compare_digest(cookie, self.door.cookie)
        admission = self.door.admission
        if not (self.subject.ours or right):
            admission.wrong_secret(self.subject)
            self.closing = True
            raise CommandError(Err.ACCESS, "wrong cookie")
        self.state.known = True
        if admission.verdict(Permission.CONNECT, self.subject) is Verdict.DENY:
            self.closing = True
        if self.state.ready:
            self._wire.send_reply(request, {"version": PROTOCOL_VERSION})
        elif self.authorize(Permission.CONNECT, request, lambda allow: self._let_in(request, allow)):
            self._let_in(request, True)

    def authorize(self, what: Permission, request: Request, again: Answer) -> bool:
        """See `Admission.authorize`."""
        self._asking = request
        return self.door.admission.authorize(what, self, self.now_ns, again)

    def _let_in(self, request: Request, allow: bool) -> None:
        """Complete the login, as decided."""
        if not allow:
            self.closing = True
            self._wire.send_error(request.tag, Err.ACCESS)
        elif not self.state.ready:
            self.state.ready, self.state.client_index = True, self.door.indexes.clients.take()
            self._enter()
            self.door.publish(Facility.CLIENT, Change.NEW, self.client_index)
            self._wire.send_reply(request, {"version": PROTOCOL_VERSION})
        self.wake()

    def _enter(self) -> None:
        """Register with the door."""
        self.door.clients[self.index] = self
        self.door.host.client_changed("new", self)

    # -- what handlers and streams use ---------------------------------------------------------

    @property
    def version(self) -> int:
        """The protocol version in force."""
        return self._wire.state.version

    def reply(self, request: Request, values: Mapping[str, Any] | None = None) -> None:
        """Answer a request."""
        self._wire.send_reply(request, values)
        self.wake()

    def fail(self, request: Request, code: Err) -> None:
        """Refuse a request."""
        self._wire.send_error(request.tag, code)
        self.wake()

    def begin_records(self, request: Request, command: Command) -> RecordsReply:
        """Begin a reply of info records in the layout of `command`."""
        return self._wire.begin_records(request.tag, command)

    def add_record(self, reply: RecordsReply, record: Mapping[str, Any]) -> None:
        """Add a record to a reply. A long reply is charged to the guest while it is being written."""
        reply.add(record)
        if reply.size > ANSWER_FREE:
            self.account.hold("answer", reply.size, UNREAD)

    def end_records(self, reply: RecordsReply) -> None:
        """Send a reply begun with `begin_records`."""
        self._wire.end_records(reply)
        self.wake()

    def records_reply(self, request: Request, command: Command, records: list[dict[str, Any]]) -> None:
        """Reply with info records in the layout of `command`."""
        self._wire.send_records(request.tag, command, records)

    def notice(self, command: Command, **values: Any) -> None:
        """Send the client a notice."""
        self._wire.send_notice(command, **values)
        self.wake()

    def send_block(self, channel: int, data: bytes) -> None:
        """Send recorded sound."""
        self._wire.send_block(channel, data)
        self.wake()
