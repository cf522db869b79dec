"""Ports for servers of tests, also for servers that stop and return to the same port."""

from __future__ import annotations

import secrets
import socket
from pathlib import Path


def free_port() -> int:
    """A free one of those that the system gives nobody by itself, so it stays free until it is taken.

    Of the others, any process may be given one in the seconds until the server listens (again).
    """
    given = Path("/proc/sys/net/ipv4/ip_local_port_range")
    first = int(given.read_text().split()[0]) if given.exists() else 49152
    for _ in range(100):
        port = first // 2 + secrets.randbelow(first - first // 2)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port
    raise OSError("no free port on 127.0.0.1")
