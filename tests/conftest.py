"""Fixtures for all tests: one local stack per run, its SQL, and the effort of hypothesis."""

from __future__ import annotations

import gc
import itertools
import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import certifi
import hypothesis
import pytest

from notebook_rt.local import LocalStack, StackOptions, start
from notebook_rt.local.options import RealtimeOptions
from notebook_rt.runtime.optional_sql import DESCRIBE_SQL, LEDGER_SQL
from tests.laws import PROFILE
from tests.proxy import Proxy
from tests.stacks import copied, template
from tests.waiting import TIME_FACTOR, scaled

hypothesis.settings.register_profile("ci", max_examples=50, deadline=None)
hypothesis.settings.register_profile("whole", max_examples=100, deadline=None)
hypothesis.settings.register_profile("nightly", max_examples=5_000, deadline=None)
hypothesis.settings.load_profile(PROFILE)

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # started in the background of a script
    signal.signal(signal.SIGINT, signal.default_int_handler)  # what is started here inherits it

QUICK = StackOptions(
    password_attempts=None,
    realtime=RealtimeOptions(
        connect_error_delay=0.05,
        join_error_delay=0.05,
        events_per_second=None,
        presence_per_second=None,
        max_broadcast_bytes=3_000_000,
    ),
)
"""A hosted project's answers, without the intentional delays of refusals, and without the limits on events
per second, a broadcast's size and sign-ins, which many tests would exceed.
"""
OLD_PLATFORM = os.environ.get("NRT_TEST_PLATFORM", "hosted") == "old"
"""``NRT_TEST_PLATFORM=old`` uses the platform before 2026, which many still self-host."""


def before_2026(options: StackOptions) -> StackOptions:
    """Return these options for the older platform."""
    return replace(
        options,
        default_grants=True,
        jwt_algorithm="HS256",
        description="open",
        anon_timeout=0.0,
        authenticated_timeout=0.0,
        realtime=replace(options.realtime, confirm_again_delay=None, login_timeout=7 * 24 * 3600.0),
    )


if OLD_PLATFORM:
    QUICK = before_2026(QUICK)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Allow more time for each test on a slow machine, unless ``--timeout`` is given.

    The time of a browser test excludes its fixtures: the first of a run waits for the stack, JupyterLab and
    Chromium, each of which has its own timeout.
    """
    one_browser_at_a_time(items)
    if config.getoption("timeout") is not None:
        return
    for item in items:
        in_browser = item.get_closest_marker("browser") is not None
        if TIME_FACTOR == 1 and not in_browser:
            continue
        own = item.get_closest_marker("timeout")
        limit = own.args[0] if own else float(config.getini("timeout"))
        mark = pytest.mark.timeout(scaled(limit), func_only=in_browser)
        item.add_marker(mark, append=False)


OWN_SERVERS = {f"tests/browser/test_browser_{name}.py" for name in ("apps", "howtos", "notebook7")}
"""Browser tests that start their own servers, and do not use the run's JupyterLab."""
LATER = "tests/outbox/"
"""When other workers have finished these, those in the run's JupyterLab are nearly finished."""


def one_browser_at_a_time(items: list[pytest.Item]) -> None:
    """Run one browser at a time: two Chromiums occupy two cores, and are slow; other tests fit with one."""
    own = [item for item in items if item.nodeid.partition("::")[0] in OWN_SERVERS]
    last = max((n for n, item in enumerate(items) if item.nodeid.startswith(LATER)), default=-1)
    if own and last >= 0:
        before = [item for item in items[: last + 1] if item not in own]
        after = [item for item in items[last + 1 :] if item not in own]
        items[:] = [*before, *own, *after]


@pytest.hookimpl(optionalhook=True)  # of pytest-xdist
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Run all tests in JupyterLab on one worker, as each worker would start a server and a Chromium.

    That takes 16 s of processor time per worker. The servers of marimo and Voila have a separate Chromium.
    """
    if config.getvalue("dist") != "loadfile":
        return None
    from xdist.scheduler import LoadFileScheduling

    class ByBrowser(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file: str = super()._split_scope(nodeid)
            if not file.startswith("tests/browser/"):
                return file
            return "servers of their own" if file in OWN_SERVERS else "the run's JupyterLab"

    return ByBrowser(config, log)


def pytest_collection_finish() -> None:
    """Exclude imported and collected objects from garbage collection, as they live until the end.

    They are half a million objects: 0.4 s of processor time for each collection, an eighth of the time of
    the tests of store and widgets.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True, scope="session")
def _nothing_at_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Do not create queues and kept tables in the home directory of the user who runs the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True, scope="session")
def _few_certificates(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Skip reading the certificate authorities in each ``httpx.get`` of a test, which takes 40 ms."""
    file = tmp_path_factory.mktemp("authority") / "one.pem"
    file.write_text("".join(certifi.contents().partition("-----END CERTIFICATE-----")[:2]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSL_CERT_FILE", str(file))
        yield


@pytest.fixture(autouse=True)
def _no_queue_of_another_test(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Do not report one test's unwritten edits to the next."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(scope="session")
def ready_made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], Path]:
    """Fill a directory so that `start` creates no database in it; see ``stacks.py``."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent  # one for all workers
    return lambda into: copied(template(folder), into)


@pytest.fixture
def stack_directory(ready_made: Callable[[Path], Path], tmp_path: Path) -> Path:
    """A directory for a separate stack of one test, whose start creates no database."""
    return ready_made(tmp_path / "stack")


@pytest.fixture(scope="session")
def stack(
    ready_made: Callable[[Path], Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LocalStack]:
    """One local stack for the whole run. A test drops its tables, or uses new names.

    It has the optional SQL that describes tables; ``test_live_columns.py`` also tests without it.
    """
    with start(ready_made(tmp_path_factory.mktemp("stack")), options=QUICK) as running:
        if not OLD_PLATFORM:  # there, the API's description contains it
            running.sql(DESCRIBE_SQL.read_text())
        yield running


@pytest.fixture
def sql(stack: LocalStack) -> Callable[..., list[tuple[Any, ...]]]:
    """`stack.sql`: a statement and its parameters, as superuser, committed at once."""
    return stack.sql


_numbers = itertools.count(time.monotonic_ns())


@pytest.fixture
def make_table(stack: LocalStack) -> Iterator[Callable[..., str]]:
    """Create published, readable and writable tables with new names, and drop them."""
    made: list[str] = []

    def make(columns: str = "id bigint primary key, name text, price numeric") -> str:
        name = f"live_{next(_numbers)}"
        stack.sql(
            f"create table {name} ({columns});"
            f"alter publication supabase_realtime add table {name};"
            f"grant all on {name} to anon, authenticated, service_role"
        )
        made.append(name)
        return name

    yield make
    if made:
        stack.sql(f"drop table if exists {', '.join(made)}")


@pytest.fixture
def table(make_table: Callable[..., str], sql: Callable[..., list[tuple[Any, ...]]]) -> str:
    """Any table with twenty rows."""
    name = make_table("id bigint primary key, note text, price numeric")
    sql(f"insert into {name} select n, 'note ' || n, n from generate_series(1, 20) n")
    return name


@pytest.fixture
def undescribed(stack: LocalStack) -> Iterator[None]:
    """A project without the SQL that describes tables; the API's description is closed."""
    if OLD_PLATFORM:
        pytest.skip("the description is open there")
    stack.sql("drop function nrt_describe")
    yield
    stack.sql(DESCRIBE_SQL.read_text())


@pytest.fixture
def described_by_sql(stack: LocalStack) -> Iterator[None]:
    """A project with the SQL that describes tables, on either platform.

    The API's description, which is open on the older one, does not contain grants, the publication, and
    unique columns.
    """
    if OLD_PLATFORM:
        stack.sql(DESCRIBE_SQL.read_text())
    yield
    if OLD_PLATFORM:
        stack.sql("drop function nrt_describe")


@pytest.fixture
def grants_untold(stack: LocalStack) -> Iterator[None]:
    """A login does not know its grants, on either platform: the server refuses a write when it arrives."""
    stack.sql("drop function if exists nrt_describe")
    yield
    if not OLD_PLATFORM:
        stack.sql(DESCRIBE_SQL.read_text())


@pytest.fixture
def ledger(stack: LocalStack) -> Iterator[None]:
    """A project with the optional SQL for writes."""
    sql = LEDGER_SQL.read_text()
    stack.sql(sql)
    stack.sql(sql)  # it may be run again
    yield
    stack.sql(
        "drop function notebook_rt_write, notebook_rt_write_many, notebook_rt_keys; "
        "drop schema notebook_rt cascade"
    )
    stack.sql("notify pgrst, 'reload schema'")


@pytest.fixture
def proxy(stack: LocalStack) -> Iterator[Proxy]:
    """A proxy in front of the stack that can cause faults."""
    with Proxy(stack.url) as running:
        yield running
