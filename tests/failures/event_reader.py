"""A process of a user's service that reads events: `python -m tests.failures.event_reader`.

Arguments: the URL, the consumer group, how many events to process before it hangs in the next one
(0: it never hangs), and the claim bound in ms. It prints the id of each event that it begins.
"""

from __future__ import annotations

import sys

import anyio

import eventsched


async def main(url: str, group: str, count: int, claim_ms: int) -> None:
    begun = 0
    async with eventsched.connect(url) as es:
        async for event in es.events(group=group, start="0", claim_ms=claim_ms):
            begun += 1
            print(event.id, flush=True)  # noqa: T201
            if count and begun > count:
                await anyio.sleep_forever()


if __name__ == "__main__":
    anyio.run(main, sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
