"""`millrace attach` and `detach`: virtual machines, over D-Bus, SPICE or VNC."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from millrace.cli.columns import say_folded
from millrace.cli.console import say
from millrace.cli.group import App
from millrace.cli.values import whole

app = App(help="Attach a virtual machine's sound to a guest.")

_GUEST = Annotated[str, typer.Option(help="The guest whose machine this is.")]
_PASSWORD = Annotated[
    Path | None, typer.Option(metavar="FILE", help="File with the password (mode 0600), read on every attempt.")
]
_CA = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Trust this CA certificate (PEM) instead of the system's.")
]


def _attach(guest: str, body: dict[str, Any]) -> None:
    """Attach the door, then wait up to a second to print its state."""
    import time

    from millrace.cli.api import call, path_of

    door = call("POST", path_of("guests", guest, "doors"), body)
    for _ in range(10):
        time.sleep(0.1)
        door = next((d for d in _doors(guest) if d["id"] == door["id"]), door)
        if door["state"] == "attached" or door["error"]:
            break
    machine = f" ({door['machine']})" if door["machine"] else ""
    why = f": {door['error']}; retrying (`millrace detach {door['id']}` ends it)" if door["error"] else ""
    say_folded(f"{door['id']} {door['door']} {door['state']}{machine}{why}", 4)


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
) -> None:
    """Attach QEMU by D-Bus: every card, playing and recording.

    Millrace connects as soon as QEMU runs, and reconnects when QEMU or the daemon restarts.

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
        _give_descriptor(guest, p2p)
        return
    _attach(guest, {"door": f"qmp:{qmp.absolute()}" if qmp else f"dbus:{dbus}", "vm": vm})


def _give_descriptor(guest: str, fd: int) -> None:
    """Send the descriptor to the daemon over its private socket."""
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
            answer = json.loads(sock.recv(65536) or b'{"error": "the daemon gave no answer"}')
        except (FileNotFoundError, ConnectionRefusedError):
            raise ConfigError(f"no daemon answers at {where}; start one with `millrace serve`") from None
        except TimeoutError:
            raise ConfigError(f"the daemon at {where} does not answer") from None
        except OSError as error:
            raise ConfigError(f"descriptor {fd}: {error.strerror}") from None
    if "error" in answer and not answer.get("id"):
        raise GraphError(answer["error"])
    say(f"{answer['id']} {answer['door']} {answer['state']}")


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
) -> None:
    """Attach a machine by SPICE: QEMU with -spice and -audiodev spice.

    Examples:

      millrace attach spice localhost:5930 --password-file ~/vm.pass

      millrace attach spice vmhost:5931 --tls --ca-file ca.pem --guest win11
    """
    _attach(guest, _network("spice", address, tls, password_file, ca_file))


@app.command("vnc")
def vnc(
    address: Annotated[str, typer.Argument(help="HOST:PORT, or unix:PATH.")],
    password_file: _PASSWORD = None,
    ca_file: _CA = None,
    guest: _GUEST = "default",
) -> None:
    """Attach a machine by VNC: QEMU with -vnc and its audiodev option.

    VNC has no microphone.

    TLS is used where QEMU offers it (VeNCrypt with certificates).

    Examples:

    \b
      millrace attach vnc localhost:5901 --password-file ~/vm.pass
      # qemu … -audiodev none,id=a -vnc :1,password=on,audiodev=a
    """
    _attach(guest, _network("vnc", address, False, password_file, ca_file))


def _network(scheme: str, address: str, tls: bool, password: Path | None, ca: Path | None) -> dict[str, Any]:
    if address.startswith("unix:"):
        door = f"{scheme}+unix://{Path(address[5:]).absolute()}"
    else:
        door = f"{scheme}{'+tls' if tls else ''}://{address}"
    files = {"password_file": password, "ca_file": ca}
    return {"door": door} | {name: str(path.absolute()) for name, path in files.items() if path}


def detach(door: Annotated[str, typer.Argument(help="door/N as `millrace ls` shows it.")]) -> None:
    """Detach a machine. Example: millrace detach door/7"""
    from millrace.cli.api import call, path_of

    call("DELETE", path_of("doors", door.removeprefix("door/")))
