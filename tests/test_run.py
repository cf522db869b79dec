"""``nrt.run``: run a coroutine to its end, in a script and inside a running loop, without earlier patches.

``nest_asyncio2`` (1.7.4) and not ``nest_asyncio`` (1.6.0, archived), measured under Python 3.11, 3.12
and 3.13 (3.14 was not at hand): nested timeouts, task groups and anyio scopes work with both, a
nested run costs 20-60 µs with either, neither nests uvloop. But the old one replaces ``asyncio.run``
by one without ``loop_factory``, which breaks ``uvloop.run`` and ``asyncio.Runner``'s callers for the
rest of the process under 3.12 and later.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import textwrap

import anyio
import pytest

import notebook_rt as nrt
from tests.waiting import scaled


async def double(number: int) -> int:
    await asyncio.sleep(0.001)
    return 2 * number


async def with_a_timeout() -> int:
    async with asyncio.timeout(scaled(5)):
        return await double(21)


async def with_a_task_group() -> int:
    async with asyncio.TaskGroup() as group:
        one, two = group.create_task(double(10)), group.create_task(double(11))
    return one.result() + two.result()


async def with_anyio() -> int:
    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:
            group.start_soon(double, 1)
        return await double(21)


COROUTINES = [with_a_timeout, with_a_task_group, with_anyio]


def in_a_process(code: str) -> str:
    """In a process of its own: nesting patches asyncio for good."""
    code = "from tests.test_run import *\n" + textwrap.dedent(code)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("coroutine", COROUTINES)
def test_without_a_running_loop(coroutine: object) -> None:
    assert nrt.run(coroutine()) == 42  # type: ignore[operator]  # one of COROUTINES


@pytest.mark.parametrize("name", [c.__name__ for c in COROUTINES])
def test_inside_a_running_loop(name: str) -> None:
    assert (
        in_a_process(f"""
        async def cell():
            before = asyncio.create_task(double(4))
            found = nrt.run({name}()), nrt.run({name}())
            return found, await before
        print(asyncio.run(cell()))
    """)
        == "((42, 42), 8)"
    )


def test_inside_a_loop_that_cannot_be_nested() -> None:
    assert (
        in_a_process("""
        import uvloop
        async def cell():
            return nrt.run(with_a_task_group()), nrt.run(with_anyio())
        print(uvloop.run(cell()))
    """)
        == "(42, 42)"
    )


def test_an_error_comes_through_and_a_timeout_inside_works() -> None:
    assert (
        in_a_process("""
        async def late():
            async with asyncio.timeout(0.01):
                await asyncio.sleep(5)
        async def cell():
            try:
                nrt.run(late())
            except TimeoutError:
                return "late"
        print(asyncio.run(cell()))
    """)
        == "late"
    )


def test_an_error_in_a_script_is_the_only_one_that_is_shown() -> None:
    async def fail() -> None:
        raise KeyError("mine")

    with pytest.raises(KeyError) as caught:
        nrt.run(fail())
    assert caught.value.__context__ is None


def test_nothing_is_patched_until_it_must_be() -> None:
    assert (
        in_a_process("""
        nrt.run(double(1))
        print(asyncio.Task is asyncio.tasks._CTask, "nest_asyncio2" in sys.modules)
    """)
        == "True False"
    )
