"""The proxy ends all its connections, and a laboratory begins without pending work."""

from __future__ import annotations

import asyncio
import socket

import pytest

from notebook_rt.local import LocalStack
from tests.faults.lab import laboratory
from tests.faults.truth import VIEWS
from tests.proxy import Proxy
from tests.waiting import throughout, until


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


@pytest.mark.slow
def test_a_laboratory_begins_after_the_last_confirmation(stack: LocalStack) -> None:
    """A later one would be a gap, which mends what a test has broken."""
    with laboratory(stack, *VIEWS) as lab:
        gaps, requests = lab.session.metrics["gaps"], lab.proxy.counts["GET"]
        throughout(lambda: lab.session.metrics["gaps"] == gaps, 0.6, lambda: lab.session.metrics)
        assert lab.proxy.counts["GET"] == requests, "all that was to be read has been read"
