"""The proxy itself: it ends with all that it began."""

from __future__ import annotations

import asyncio
import socket

from tests.proxy import Proxy
from tests.waiting import until


def test_what_is_under_way_when_the_proxy_ends_ends_with_it() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        for _ in range(5):
            with Proxy(f"http://127.0.0.1:{silent.getsockname()[1]}") as proxy:
                asking = [socket.create_connection(("127.0.0.1", proxy.port)) for _ in range(5)]
                for one in asking:
                    one.sendall(b"GET /rest/v1/t HTTP/1.1\r\nHost: proxy\r\n\r\n")
                until(lambda proxy=proxy: proxy.counts["GET"] == 5)
            for one in asking:
                one.close()
            assert not asyncio.all_tasks(proxy._loop)
