"""A kernel with a kept table, to be killed: run as a script, it starts one for each line that it reads.

It says on stdout what it shows first, and when it is live; its files are written as often as can be.
"""

from __future__ import annotations

import os
import signal
import sys
import time

import notebook_rt as nrt
from notebook_rt.disk import shelf
from notebook_rt.runtime import keeping


def live(url: str, key: str, table: str) -> None:
    """Keep the table until the end."""
    keeping.PAUSE = 0.01  # a kill meets more of what is written
    shelf.LEAST_JOURNAL = 20_000
    began = time.perf_counter()
    session = nrt.connect(url, key)
    frame = session.table(table, keep=True)
    shown = frame.df
    took = time.perf_counter() - began
    torn = int((shown["b"] != 7 * shown["a"]).sum())
    say("shown", len(shown), torn, session.metrics["kept_refused"], frame.status, took)
    frame.wait()
    while frame.status != "live":
        session.health  # noqa: B018  as a user does who looks
        time.sleep(0.005)
    say("live")
    signal.pause()


def say(*words: object) -> None:
    """One line, all of it at once."""
    os.write(1, (" ".join(map(str, words)) + "\n").encode())


if __name__ == "__main__":
    for _ in sys.stdin:
        child = os.fork()
        if not child:
            live(*sys.argv[1:])
        say("pid", child)
