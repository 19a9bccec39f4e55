"""`millrace attach` and `detach`: virtual machines over D-Bus, SPICE or VNC, and X displays."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from millrace.cli.columns import say_folded
from millrace.cli.console import show_json, warn
from millrace.cli.group import App
from millrace.cli.values import whole

app = App(
    "millrace attach qemu --qmp /run/vm.qmp",
    "millrace attach spice localhost:5930 --password-file ~/vm.pass",
    "millrace attach vnc localhost:5901",
    "millrace attach x11 :1",
    "millrace ls                 # the state of each door",
    "millrace detach door/7",
    help="Attach a virtual machine, VNC server or X display to a guest.\n\nThe guest gets its screen, sound, keyboard"
    " and pointer. It stays attached until it is detached, even if it or the daemon is restarted.",
)
WAIT_S, LOOK_S = 2.0, 0.1
"""How long a machine may take to answer before its door is shown as waiting, and the time between looks."""

_GUEST = Annotated[str, typer.Option(help="The guest whose machine this is.")]
_PASSWORD = Annotated[
    Path | None, typer.Option(metavar="FILE", help="File with the password (mode 0600), read on every attempt.")
]
_CA = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Trust this CA certificate (PEM) instead of the system's.")
]

_JSON = Annotated[bool, typer.Option("--json", help="Print the door as JSON.")]
_ONCE = Annotated[bool, typer.Option("--once", help="Don't attach it again when the daemon is restarted.")]

_ALSO = Annotated[
    bool, typer.Option("--also", help="Attach it even if another guest has it: both see it and type into it.")
]


def _attach(guest: str, body: dict[str, Any], once: bool, also: bool, as_json: bool) -> None:
    """Attach the door, then wait a few seconds for the machine to answer, and print its state."""
    import time

    from millrace.cli.api import call, path_of

    door = call(
        "POST",
        path_of("guests", guest, "doors"),
        body | {name: True for name, wanted in (("once", once), ("also", also)) if wanted},
    )
    for _ in range(round(WAIT_S / LOOK_S)):
        time.sleep(LOOK_S)
        door = next((d for d in _doors(guest) if d["id"] == door["id"]), door)
        if door["state"] == "attached" or door["error"]:
            break
    _show(door, as_json)
    # No failure: a machine may be attached before it runs. `mount -o bg` does the same for a server that is down.
    if door["state"] == "attached":
        if lacks := door["error"] or door["hint"]:
            warn(lacks)
    else:
        warn(door["error"] or "no answer yet")
        warn(f"Millrace keeps trying until the machine answers; `millrace detach {door['id']}` ends that")


def _show(door: dict[str, Any], as_json: bool) -> None:
    if as_json:
        show_json(door)
        return
    machine = f" ({door['machine']})" if door["machine"] else ""
    say_folded(f"{door['id']} {door['door']} {door['state']}{machine}", 4)


def _doors(guest: str) -> list[dict[str, Any]]:
    from millrace.cli.api import call

    guests = call("GET", "/api/v1/state")["guests"]
    return [door for one in guests if one["name"] == guest for door in one["doors"]]


@app.command("qemu")
def qemu(
    qmp: Annotated[
        Path | None, typer.Option(metavar="PATH", help="QMP socket; QEMU must run with -display dbus,p2p=on.")
    ] = None,
    dbus: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="D-Bus address, the same one that QEMU was given.")
    ] = None,
    p2p: Annotated[int | None, whole("--p2p", 0, 1 << 20, "File descriptor connected to QEMU.")] = None,
    vm: Annotated[str, typer.Option(help="Name or UUID of the machine, if several share the bus.")] = "",
    guest: _GUEST = "default",
    once: _ONCE = False,
    also: _ALSO = False,
    as_json: _JSON = False,
) -> None:
    """Attach QEMU by D-Bus: screens, every sound card, microphone.

    Millrace connects as soon as QEMU runs, and reconnects when QEMU or the daemon restarts, until it is detached. A
    connection that was handed over (--p2p) ends with QEMU or the daemon.

    Examples:

    \b
      millrace attach qemu --qmp /run/vm.qmp
      # qemu … -qmp unix:/run/vm.qmp,server=on,wait=off
      #   -display dbus,p2p=on,audiodev=a
      #   -audiodev dbus,id=a,timer-period=5000

    \b
      millrace attach qemu --dbus unix:path=/run/user/1000/bus --vm win11
      # qemu … -name win11 -display dbus,audiodev=a
      #   -audiodev dbus,id=a,timer-period=5000
    """
    from millrace.errors import ConfigError

    if sum(one is not None for one in (qmp, dbus, p2p)) != 1:
        raise ConfigError("give one of --qmp SOCKET, --dbus ADDRESS, --p2p FD")
    if p2p is not None:
        _show(_given_descriptor(guest, p2p), as_json)
        return
    _attach(guest, {"door": f"qmp:{qmp.absolute()}" if qmp else f"dbus:{dbus}", "vm": vm}, once, also, as_json)


def _given_descriptor(guest: str, fd: int) -> dict[str, Any]:
    """Send the descriptor to the daemon over its private socket; returns the door."""
    import json
    import socket

    from millrace.errors import ConfigError, GraphError
    from millrace.io.paths import HANDOVER_SOCKET, runtime_dir

    where = runtime_dir() / HANDOVER_SOCKET
    if not _is_socket(fd):
        raise ConfigError(f"--p2p: descriptor {fd} is not a socket; give one that is connected to QEMU")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(10)
        try:
            sock.connect(str(where))
            socket.send_fds(sock, [json.dumps({"guest": guest}).encode() + b"\n"], [fd])
            answer: dict[str, Any] = json.loads(sock.recv(65536) or b'{"error": "the daemon gave no answer"}')
        except (FileNotFoundError, ConnectionRefusedError):
            raise ConfigError(f"no daemon answers at {where}; start one with `millrace serve`") from None
        except TimeoutError:
            raise ConfigError(f"the daemon at {where} does not answer") from None
        except OSError as error:
            raise ConfigError(f"descriptor {fd}: {error.strerror}") from None
    if "error" in answer and not answer.get("id"):
        raise GraphError(answer["error"])
    return answer


def _is_socket(fd: int) -> bool:
    import os
    import stat

    try:
        return stat.S_ISSOCK(os.fstat(fd).st_mode)
    except OSError:
        return False


@app.command("spice")
def spice(
    address: Annotated[str, typer.Argument(help="HOST:PORT, or unix:PATH.")],
    password_file: _PASSWORD = None,
    tls: Annotated[bool, typer.Option("--tls", help="HOST:PORT is the TLS port.")] = False,
    ca_file: _CA = None,
    guest: _GUEST = "default",
    once: _ONCE = False,
    also: _ALSO = False,
    as_json: _JSON = False,
) -> None:
    """Attach a machine by SPICE: screen, sound, microphone.

    QEMU runs with -spice and -audiodev spice.

    Examples:

      millrace attach spice localhost:5930 --password-file ~/vm.pass

      millrace attach spice vmhost:5931 --tls --ca-file ca.pem --guest win11
    """
    _attach(guest, _network("spice", address, tls, password_file, ca_file), once, also, as_json)


@app.command("vnc")
def vnc(
    address: Annotated[str, typer.Argument(help="HOST:PORT, or unix:PATH.")],
    password_file: _PASSWORD = None,
    tls: Annotated[bool, typer.Option("--tls", help="With TLS, or not at all.")] = False,
    ca_file: _CA = None,
    guest: _GUEST = "default",
    once: _ONCE = False,
    also: _ALSO = False,
    as_json: _JSON = False,
) -> None:
    """Attach a desktop by VNC: its screen; from QEMU also sound.

    For QEMU's sound, its -vnc needs the audiodev option. VNC has no microphone. Programs of another desktop (TigerVNC,
    x11vnc) bring their sound through the guest's socket.

    TLS is used where the server offers it (VeNCrypt with certificates). With --tls or --ca-file, a server that does not
    is sent nothing.

    Examples:

    \b
      millrace attach vnc localhost:5901 --password-file ~/vm.pass
      # qemu … -audiodev none,id=a -vnc :1,password=on,audiodev=a

    \b
      millrace attach vnc localhost:5902    # TigerVNC, x11vnc, …
    """
    _attach(guest, _network("vnc", address, tls, password_file, ca_file), once, also, as_json)


@app.command("x11")
def x11(
    display: Annotated[str, typer.Argument(help="The display: :1, or the path of its socket.")],
    auth_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Authority file with the display's cookie (mode 0600).")
    ] = None,
    guest: _GUEST = "default",
    once: _ONCE = False,
    also: _ALSO = False,
    as_json: _JSON = False,
) -> None:
    """Attach an X display: a desktop without a virtual machine.

    That of a container, for example: its picture, keyboard and pointer.

    Programs in it bring their sound through the guest's socket.

    Examples:

    \b
      millrace attach x11 :1
      # Xvfb :1 -screen 0 1920x1080x24
    """
    body = {"door": f"x11:{display}"}
    _attach(guest, body | ({"password_file": str(auth_file.absolute())} if auth_file else {}), once, also, as_json)


def _network(scheme: str, address: str, tls: bool, password: Path | None, ca: Path | None) -> dict[str, Any]:
    from millrace.errors import ConfigError

    if address.startswith("unix:") and tls:
        raise ConfigError(f"--tls is for HOST:PORT, and {address} is a socket of this host")
    if address.startswith("unix:"):
        door = f"{scheme}+unix://{Path(address[5:]).absolute()}"
    else:
        door = f"{scheme}{'+tls' if tls else ''}://{address}"
    files = {"password_file": password, "ca_file": ca}
    return {"door": door} | {name: str(path.absolute()) for name, path in files.items() if path}


def detach(door: Annotated[str, typer.Argument(help="door/N as `millrace ls` shows it.")]) -> None:
    """Detach a machine and forget it. Example: millrace detach door/7

    One that is listed in the configuration is attached again when the daemon starts.
    """
    from millrace.cli.api import call, path_of

    call("DELETE", path_of("doors", door.removeprefix("door/")))
