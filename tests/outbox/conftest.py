"""A separate table for each test, on the real local stack, and kernels that write to it."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from notebook_rt.local import LocalStack
from tests.outbox.kernel import TABLE_SQL, Kernel
from tests.waiting import until


@pytest.fixture
def table(stack: LocalStack) -> Iterator[str]:
    name = f"outbox_{uuid.uuid4().hex[:8]}"
    stack.sql(TABLE_SQL.format(name))
    headers = {"apikey": stack.anon_key}
    until(lambda: httpx.get(f"{stack.url}/rest/v1/{name}", headers=headers).is_success)
    yield name
    stack.sql(f"drop table {name} cascade")


@pytest.fixture
def kernel(stack: LocalStack, table: str, tmp_path: Path) -> Callable[..., Kernel]:
    """Open a kernel; each of another name has another file."""

    def make(
        name: str = "a", *, url: str | None = None, opened: bool = True, **options: object
    ) -> Kernel:
        path = tmp_path / f"{name}.sqlite3"
        made = Kernel(url or stack.url, stack.anon_key, path, table, **options)  # type: ignore[arg-type]  # handed on
        return made.open(stack.url) if opened else made

    return make
