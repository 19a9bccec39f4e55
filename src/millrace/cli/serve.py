"""`millrace serve`: the daemon."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from millrace.cli.console import tell

if TYPE_CHECKING:
    from millrace.daemon.app import Daemon
    from millrace.daemon.config import Config

DESCRIPTORS = 65_536
TOLD_MAX = 3
"""Guests that are described when the daemon has started."""


def serve(
    config: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Configuration (TOML); default $XDG_CONFIG_HOME/millrace/config.toml."),
    ] = None,
    listen: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="Address for browsers, listeners and viewers.")
    ] = None,
    guest: Annotated[list[str] | None, typer.Option(help="A guest to serve; can be repeated.")] = None,
    qemu_qmp: Annotated[
        list[Path] | None,
        typer.Option(metavar="PATH", help="QMP socket of the first guest's QEMU; see `millrace attach qemu`."),
    ] = None,
    qemu_dbus: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="D-Bus address of the first guest's QEMU.")
    ] = None,
    tls_cert: Annotated[Path | None, typer.Option(metavar="FILE", help="TLS certificate chain (PEM).")] = None,
    tls_key: Annotated[Path | None, typer.Option(metavar="FILE", help="TLS private key (PEM).")] = None,
    token_file: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="File with a token that has every right; or $MILLRACE_TOKEN."),
    ] = None,
    policy: Annotated[
        bool, typer.Option("--policy/--no-policy", help="Also run the session manager; see `millrace-policy`.")
    ] = True,
    log_format: Annotated[str, typer.Option(metavar="FORMAT", help="text, or json with one object per line.")] = "text",
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log more.")] = False,
) -> None:
    """Run the daemon: hear guests and see their screens elsewhere.

    Examples:

      millrace serve

      millrace serve --qemu-qmp /run/vm.qmp

      millrace serve --guest alice --guest bob

      millrace serve --listen 0.0.0.0:8642 --tls-cert c.pem --tls-key k.pem
    """
    import gc

    from millrace.cli.logs import set_up
    from millrace.cli.run import run

    # During the imports, garbage collection would look through all that stays, again and again.
    gc.disable()
    set_up(log_format, verbose)
    made = _configured(config, listen, guest, tls_cert, tls_key, token_file)
    run(_serve(_with_machines(made, qemu_qmp or [], qemu_dbus), policy))


def _configured(
    path: Path | None,
    listen: str | None,
    guests: list[str] | None,
    cert: Path | None,
    key: Path | None,
    token: Path | None,
) -> Config:
    """The configuration file, overridden by the command line."""
    from dataclasses import replace

    from millrace.daemon.config import demand_own_token, load, with_token
    from millrace.guest.config import GuestConfig, checked_guest_name
    from millrace.text import parse_address

    config = load(path)
    if listen:
        parse_address(listen, "--listen")
        config = replace(config, listen=listen)
    if guests:
        names = dict.fromkeys(checked_guest_name(name) for name in guests)
        config = replace(config, guests=tuple(GuestConfig(name) for name in names))
    if cert or key:
        config = replace(config, tls_cert=str(cert or ""), tls_key=str(key or ""))
    config = with_token(config, token) if token else config
    demand_own_token(config)
    return config


def _with_machines(config: Config, qmp: list[Path], dbus: str | None) -> Config:
    """Add the machines named on the command line to the first guest."""
    from dataclasses import replace

    from millrace.guest.machines.address import parse_door

    texts = [f"qmp:{path.absolute()}" for path in qmp] + ([f"dbus:{dbus}"] if dbus else [])
    first, *others = config.guests
    doors = (*first.doors, *(parse_door(text) for text in texts))
    return replace(config, guests=(replace(first, doors=doors), *others))


# `on_stop` comes before the start, so that a signal during it is not lost, and the policy is stopped before the
# daemon whose socket it uses. The readiness notice is sent when the sockets accept, not before: a service that is
# ordered after this one may connect at once.
async def _serve(config: Config, policy: bool) -> None:
    import asyncio

    from millrace.cli.run import on_stop
    from millrace.daemon.allocator import pin_malloc
    from millrace.daemon.collector import calm, keep_calm
    from millrace.daemon.threads import set_switch_interval
    from millrace.io.crypto import trusting_nobody
    from millrace.io.notify import notify
    from millrace.io.paths import NATIVE_SOCKET, policy_path
    from millrace.policy.config import load
    from millrace.policy.program import Program

    with trusting_nobody():
        from millrace.daemon.app import Daemon
    _more_descriptors()
    daemon = Daemon(config)
    stopping = asyncio.Event()
    on_stop(stopping.set)
    program = Program(config.runtime / NATIVE_SOCKET, load(None, policy_path())) if policy else None
    deciding: asyncio.Task[None] | None = None
    collecting: asyncio.Task[None] | None = None
    try:
        await daemon.start()
        if program is not None:
            deciding = asyncio.create_task(program.run())
        pin_malloc()
        set_switch_interval()
        calm()
        collecting = asyncio.create_task(keep_calm(daemon.worker.quiet))
        _tell(daemon)
        notify("READY=1")
        await stopping.wait()
        notify("STOPPING=1")
        tell("stopping …")
    finally:
        tasks = [task for task in (deciding, collecting) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await daemon.stop()


def _more_descriptors() -> None:
    """Raise the descriptor limit if allowed: there may be hundreds of guests, and each native stream takes two."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, DESCRIPTORS)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _tell(daemon: Daemon) -> None:
    """Print what to export for applications, and how to listen."""
    from millrace.io.sockets import reachable_host
    from millrace.text import parse_address, show_address

    guests = list(daemon.worker.guests.values())
    for guest in guests[:TOLD_MAX]:
        tell(f"guest {guest.name}")
        tell(f"  applications:  export PULSE_SERVER=unix:{guest.pulse.path}")
        for address in guest.config.pulse_tcp:
            host, port = parse_address(address, "pulse_tcp")
            server = show_address(reachable_host(host), port)
            tell(f"  over TCP:      export PULSE_SERVER=tcp:{server} PULSE_COOKIE={guest.pulse.cookie_path}")
        tell(f"  hear and see:  millrace listen {guest.name}; millrace view {guest.name}")
    if len(guests) > TOLD_MAX:
        tell(f"and {len(guests) - TOLD_MAX} more guests, likewise; `millrace ls` shows them")
    name = guests[0].name if len(guests) == 1 else "GUEST"
    tell(f"by network: millrace view {daemon.serving.outward_url}/{name} --token-file FILE; or listen")
    tell("machines:   millrace attach qemu|spice|vnc|x11 …   shows and plays a virtual machine or desktop")
    if daemon.config.token:
        tell(f"access:     the token in {daemon.config.token_from} has every right here")
    if os.isatty(1):
        tell(f"browser:    {daemon.page_link()}")
        tell("            valid for one browser, once, for an hour; `millrace page` prints another")
    else:
        tell(f"browser:    {daemon.serving.page_url} with a token, or by the link that `millrace page` prints")
    if daemon.serving.silent_url:
        tell(f"            elsewhere {daemon.serving.silent_url} with a token; browsers play sound there only with TLS")
    tell("ready; `millrace ls` shows the state, Ctrl-C stops the daemon")
