"""LOAD_MODULE and UNLOAD_MODULE.

Each kind of module is a row of `KINDS`. Everything a module creates is registered in its `Module` at once, so a module
that fails half-way leaves nothing behind, and unloading removes all of it.
"""

from __future__ import annotations

from collections.abc import Iterator

from millrace.doors.pulse.client import Handler, PulseClient
from millrace.doors.pulse.door import MODULES_MAX
from millrace.doors.pulse.formats import REFUSALS, CommandError, code_of
from millrace.doors.pulse.loaded import Module, kind_of, unnoted
from millrace.doors.pulse.loading import Loading
from millrace.doors.pulse.modargs import wrong
from millrace.doors.pulse.modkinds import KINDS, NOT_SERVED, Kind
from millrace.wire.pulse.constants import Command, Err
from millrace.wire.pulse.session import Request


def load_module(client: PulseClient, request: Request) -> None:
    """LOAD_MODULE. The protocol can't convey why loading failed, so the reason goes to the daemon's log."""
    name, text = request.fields["name"] or "", request.fields["argument"] or ""
    if not name or "/" in name:
        raise CommandError(Err.INVALID)
    try:
        module = _loaded(client, name, text)
    except REFUSALS as error:
        client.door.host.module_failed(f"{name} {text}".rstrip(), str(error))
        denied = code_of(error) is Err.ACCESS
        raise CommandError(Err.ACCESS if denied else Err.MODINITFAILED, str(error)) from None
    client.reply(request, {"index": module.index})


def _kind(client: PulseClient, name: str) -> Kind:
    """The row of a module, if it may be loaded."""
    named, modules = kind_of(name), client.door.modules
    kind = KINDS.get(named)
    if kind is None:
        raise wrong(NOT_SERVED.get(named) or f"there is no such module; there are {', '.join(KINDS)}")
    if kind.once and any(module.kind == named for module in modules.values()):
        raise wrong("it is already loaded")
    if len(modules) >= MODULES_MAX:
        raise wrong(f"{MODULES_MAX} modules are already loaded")
    return kind


# The module is registered last, since there may be no room for it; before that no client can name it, and an error
# leaves only what is in `module`, which is unmade. While `loading` is not 0, observers know that a new sink comes
# from a module.
def _loaded(client: PulseClient, name: str, text: str) -> Module:
    """Load a module. If it fails, remove what it has created so far."""
    door, kind = client.door, _kind(client, name)
    args = kind.args(text)
    greet = unnoted if kind.greets is None else kind.greets(door, args)
    module = door.new_module(name, text, kind.description, greet)
    door.loading += 1
    try:
        kind.make(Loading(client, args, module))
        door.load(module)
    except REFUSALS:
        door.unmake(module)
        raise
    finally:
        door.loading -= 1
    for key, why in kind.idle.items():
        if args.text(key) is not None:
            door.host.module_idle(name, f"{key} has no effect: {why}")
    return module


def unload_module(client: PulseClient, request: Request) -> Iterator[None]:
    """UNLOAD_MODULE. Streams on the module's sinks move to another sink."""
    module = client.door.modules.get(request.fields["index"])
    if module is None:
        raise CommandError(Err.NOENTITY)
    if module.fixed:
        raise CommandError(Err.ACCESS)
    for mix in module.mixes:
        if mix.id in client.door.graph.sinks:
            yield from client.door.graph.leave(mix)
    client.door.unload(module)
    client.reply(request)


HANDLERS: dict[Command, Handler] = {
    Command.LOAD_MODULE: load_module,
    Command.UNLOAD_MODULE: unload_module,
}
