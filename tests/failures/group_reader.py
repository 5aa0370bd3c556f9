"""Another program that reads from a consumer group: `python -m tests.failures.group_reader`.

Arguments: the URL, the stream, the group, the consumer, and `ack`, or `noack` to leave nothing
pending. It prints `reads` when it begins and reads until it is killed.
"""

from __future__ import annotations

import sys

import redis


def main() -> None:
    url, stream, group, consumer, mode = sys.argv[1:]
    client = redis.Redis.from_url(url)
    print("reads", flush=True)  # noqa: T201
    while True:
        try:
            client.xreadgroup(
                group, consumer, {stream: ">"}, count=3, block=50, noack=mode == "noack"
            )
        except redis.ResponseError:
            continue  # the group removed this consumer during its read


if __name__ == "__main__":
    main()
