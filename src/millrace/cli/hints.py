"""What to do instead of a command that there is not, by the name that other programs give it."""

from __future__ import annotations

_WHY = (
    "`millrace incidents` says what went wrong, `millrace explain viewer/N` or `stream/N` what is done to it,"
    " `millrace ls` the state"
)
_RECORD = "`millrace view --to FILE.mkv` records picture and sound, `millrace listen --to wav:FILE` sound alone"
_SEE = "`millrace view` shows a guest's screen, `millrace listen` plays its sound"
_LOG = "the daemon logs to its terminal or journal; `millrace incidents` says what went wrong"

HINTS = {
    **dict.fromkeys(("doctor", "check", "diagnose", "debug", "why"), _WHY),
    **dict.fromkeys(("record", "capture"), _RECORD),
    **dict.fromkeys(("screenshot", "snapshot"), "`millrace view --to FILE.png` writes one picture"),
    **dict.fromkeys(("play", "hear", "watch", "see", "show", "connect", "open"), _SEE),
    **dict.fromkeys(("status", "list", "ps"), "`millrace ls` shows the state, `millrace top` watches it"),
    **dict.fromkeys(("start", "run", "daemon"), "`millrace serve` runs the daemon"),
    **dict.fromkeys(("log", "logs"), _LOG),
    "stop": "Ctrl-C in its terminal, or SIGTERM, stops the daemon",
}
