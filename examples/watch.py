"""Watch the registry, and turn down whatever is called Firefox: python examples/watch.py"""

from __future__ import annotations

import asyncio
import contextlib

import millrace


async def main() -> None:
    async with millrace.connect(name="example") as bus:
        async for change in bus.watch(kinds=["stream", "listener"]):
            if change.object is None:
                print("that is all that is there; waiting for changes, Ctrl-C ends")
                continue
            thing = change.object
            print(f"{change.what:<8} {thing.guest}: {thing.key} {thing.props['name']}")
            if change.what == "added" and thing.props.get("application") == "Firefox":
                await bus.set(thing.key, volume="50%")


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        try:
            asyncio.run(main())
        except millrace.MillraceError as error:
            raise SystemExit(str(error)) from None
