"""Two programs that only share a name: the second one is started here, but could be anybody of the same user."""

import os
import subprocess
import sys

from shmq import Channel

OTHER = """
import sys
from shmq import Channel
with Channel.attach(sys.argv[1]) as channel, channel.producer() as tx:
    for text in ("found it", "by", "name"):
        tx.push(text.encode())
"""

name = f"shmq-example-{os.getpid()}"
with Channel.create(4096, name) as channel, channel.consumer() as rx:
    other = subprocess.Popen([sys.executable, "-c", OTHER, name])
    words = [rx.pop(timeout=20).decode() for _ in range(3)]
    other.wait()
    print(" ".join(words))
