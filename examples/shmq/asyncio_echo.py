"""An event loop that talks to another process without polling: both directions are channels with eventfds."""

import asyncio
import os

from shmq import Channel


def answer(requests: Channel, replies: Channel) -> None:
    """The other process: blocking calls, upper-case replies, until an empty message."""
    with requests.consumer() as rx, replies.producer() as tx:
        while message := rx.pop(timeout=10):
            tx.push(message.upper(), timeout=10)


async def talk(requests: Channel, replies: Channel) -> list[bytes]:
    with requests.producer("eventfd") as tx, replies.consumer("eventfd") as rx:
        got = []
        for word in (b"no", b"busy", b"loop"):
            await tx.apush(word)
            async with asyncio.timeout(10):
                got.append(await rx.apop())
        await tx.apush(b"")
        return got


with Channel.create(1 << 12, eventfd=True) as requests, Channel.create(1 << 12, eventfd=True) as replies:
    if os.fork() == 0:
        answer(requests, replies)
        os._exit(0)
    print(b" ".join(asyncio.run(talk(requests, replies))).decode())
    os.wait()
