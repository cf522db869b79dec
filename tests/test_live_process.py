"""Live tables in a script, a REPL and a kernel, without noise."""

from __future__ import annotations

import ast
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from jupyter_client.manager import KernelManager

from notebook_rt.disk import cache
from notebook_rt.disk.kept import Facts, Identity, Kept
from notebook_rt.local import LocalStack
from notebook_rt.model.rows import Upsert
from notebook_rt.model.spec import TableSpec
from notebook_rt.model.types import Column, Schema
from notebook_rt.net.credentials import Credentials
from notebook_rt.store.table import Table
from notebook_rt.sync.table.memory import Memory
from tests.waiting import scaled, until

QUARRELSOME = ("-W", "always::ResourceWarning", "-W", "always::RuntimeWarning")
"""A socket left open or a coroutine never awaited would be told."""

CONNECT = """
import notebook_rt as nrt
rt = nrt.connect({url!r}, {key!r})
frame = rt.table("process_table")
"""


@pytest.fixture
def connect(stack: LocalStack) -> str:
    stack.sql("create table if not exists process_table (id bigint primary key, name text)")
    stack.sql("truncate process_table")
    stack.sql("insert into process_table values (1, 'one'), (2, 'two')")
    stack.sql(
        "do $$ begin alter publication supabase_realtime add table process_table; "
        "exception when duplicate_object then null; end $$"
    )
    stack.sql("grant all on process_table to anon")
    return CONNECT.format(url=stack.url, key=stack.anon_key)


def python(code: str, timeout: float = 60) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *QUARRELSOME, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        timeout=scaled(timeout),
        check=False,
    )


@pytest.mark.parametrize(
    "ending",
    [
        "rt.close()",
        "",
        "import sys; sys.exit()",
        "del rt, frame; import gc; gc.collect()",
        "frame.on_change(print)",
        "raise SystemExit",
    ],
)
def test_a_script_prints_its_data_and_nothing_else(connect: str, ending: str) -> None:
    done = python(connect + "print(len(frame.df), frame.df.loc[2, 'name'])\n" + ending)
    assert (done.stdout, done.stderr, done.returncode) == ("2 two\n", "", 0)


def test_a_script_that_ends_at_once_ends_at_once(connect: str) -> None:
    began = time.monotonic()
    done = python(connect)
    assert (done.stdout, done.stderr, done.returncode) == ("", "", 0)
    assert time.monotonic() - began < scaled(30)


def test_failures_make_no_noise_beside_their_exception() -> None:
    done = python("""
        import notebook_rt as nrt
        rt = nrt.connect("http://127.0.0.1:9", "key")
        try:
            rt.table("t").df
        except nrt.errors.UnreachableError as error:
            print("told")
    """)
    assert (done.stdout, done.stderr, done.returncode) == ("told\n", "", 0)


def test_in_a_repl(connect: str) -> None:
    done = subprocess.run(
        [sys.executable, "-i", "-q"],
        input=connect + "len(frame.df)\nframe.close()\nframe.status\n",
        capture_output=True,
        text=True,
        timeout=scaled(60),
        check=False,
    )
    assert done.stdout == "2\n'closed'\n"
    assert done.stderr.replace(">>> ", "").strip() == ""


def test_ctrl_c_works_while_waiting(connect: str) -> None:
    code = textwrap.dedent("""
        import notebook_rt as nrt, socket, sys, threading, time
        silent = socket.create_server(("127.0.0.1", 0))
        rt = nrt.connect(f"http://127.0.0.1:{silent.getsockname()[1]}", "key")
        main = threading.get_ident()
        def tell():
            while True:
                frame = innermost = sys._current_frames()[main]
                while frame and "notebook_rt" not in frame.f_globals.get("__name__", ""):
                    frame = frame.f_back
                if frame and innermost.f_code.co_filename == threading.__file__:
                    return print("waiting", flush=True)
                time.sleep(0.01)
        try:
            threading.Thread(target=tell, daemon=True).start()
            rt.table("t").df
        except KeyboardInterrupt:
            print("interrupted")
    """)
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "waiting\n"
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=scaled(15))
    assert (out, err) == ("interrupted\n", "")


def test_ctrl_c_in_a_loop_over_changes_shows_the_loop_and_no_machinery(connect: str) -> None:
    done = python(
        connect
        + """
import os, signal, sys, threading, time, traceback
main = threading.get_ident()
def interrupt():
    while True:
        stack = traceback.extract_stack(sys._current_frames()[main])
        if "__next__" in [one.name for one in stack] and stack[-1].filename == threading.__file__:
            break
        time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGINT)
frame.wait()
changes = frame.changes()
threading.Thread(target=interrupt, daemon=True).start()
for batch in changes:
    print(batch)
"""
    )
    assert done.stderr.rstrip().endswith("KeyboardInterrupt")
    files = [line.split('"')[1] for line in done.stderr.splitlines() if line.startswith("  File")]
    assert [Path(file).name for file in files] == ["<string>", "iteration.py"], done.stderr


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_after_a_fork_the_child_has_a_loop_of_its_own(connect: str) -> None:
    done = python(
        connect
        + """
import os, sys, warnings
assert len(frame.df) == 2
warnings.filterwarnings("ignore", "This process.*is multi-threaded")  # Python's own, from 3.12 on
child = os.fork()
if child == 0:
    try:
        rt.table("other")
    except nrt.errors.ClosedError as error:
        with nrt.connect(rt.url, rt._project.credentials.key) as mine:
            print("child", len(mine.table("process_table").df), flush=True)
    os._exit(0)
os.waitpid(child, 0)
print("parent", len(frame.wait().df))
"""
    )
    assert (done.stdout, done.stderr) == ("child 2\nparent 2\n", "")


def test_env_variables_name_the_project(stack: LocalStack, connect: str) -> None:
    code = """
    import notebook_rt as nrt
    with nrt.connect() as rt:
        print(len(rt.table("process_table").df))
    """
    env = {**os.environ, "SUPABASE_URL": stack.url, "SUPABASE_KEY": stack.anon_key}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        env=env,
        timeout=scaled(60),
        check=False,
    )
    assert (done.stdout, done.stderr) == ("2\n", "")


def test_the_import_brings_in_nothing_heavy() -> None:
    """Modules, not milliseconds: what is imported when used is not imported before."""
    done = python("""
        import pandas, sys
        before = set(sys.modules)
        import notebook_rt
        print(sorted(name for name in set(sys.modules) - before if "notebook_rt" not in name))
        before = set(sys.modules)
        notebook_rt.connect
        heavy = {"supabase", "anywidget", "ipywidgets", "aiohttp", "psycopg", "IPython", "altair",
                 "supabase_auth", "nest_asyncio2", "tqdm", "httpx", "httpcore", "rich", "realtime",
                 "pydantic", "websockets", "email.utils", "statistics", "polars", "duckdb", "pyarrow.parquet"}
        heavy |= {f"notebook_rt.{name}" for name in (
            "disk.archive", "history", "local", "magics", "mapped", "runtime.derived", "runtime.recording",
            "runtime.watching", "sqlview", "sync.derive.operator", "sync.history.past", "widgets")}
        print(sorted(heavy & set(sys.modules)))
    """)
    assert done.stdout == "[]\n[]\n"


def test_only_what_a_user_is_given_is_a_dataclass() -> None:
    """To define one takes 30 times as long as to define a struct, at each import (performance.md)."""
    done = python("""
        import dataclasses, sys
        import notebook_rt
        notebook_rt.connect
        found = {
            one.__name__
            for name, module in sys.modules.items() if name.startswith("notebook_rt")
            for one in vars(module).values() if isinstance(one, type) and dataclasses.is_dataclass(one)
        }
        print(sorted(found))
    """)
    given = [
        "ChangeBatch",
        "Column",
        "Conflict",
        "Health",
        "Message",
        "Options",
        "Person",
        "Schema",
    ]
    pending = ["Editor", "PendingEdits"]  # no records: they hold a lock
    assert ast.literal_eval(done.stdout) == sorted([*given, *pending, "SendResult", "Verdict"])


def test_a_kept_table_is_read_before_what_only_the_network_needs_is_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    nobody, key = "http://127.0.0.1:9", "sb_publishable_x"
    shelf = cache.shelf(Identity.of(nobody, Credentials(key).owner, TableSpec("kept_early")))
    assert shelf.take()
    table = Table(Schema((Column("id", "int8"),), ("id",)))
    table.apply([Upsert(1, {"id": 1}), Upsert(2, {"id": 2})])
    facts = Facts(1.7e9, Memory())
    shelf.write(Kept(table.schema, table.schema.names, table.parts(), np.arange(2), facts))
    shelf.close()
    done = python(f"""
        import sys
        import notebook_rt as nrt
        from notebook_rt.net import supervisor
        from notebook_rt.runtime.keeping import Keeping

        supervisor.UNASKED_SECONDS = 600  # or a slow machine is through with it
        read = Keeping._read

        def watched(self):
            warm = read(self)
            print(sorted({{"httpx", "realtime", "pydantic", "websockets"}} & set(sys.modules)))
            return warm

        Keeping._read = watched
        print(len(nrt.connect({nobody!r}, {key!r}).table("kept_early", keep=True).df))
    """)
    assert done.stdout == "[]\n2\n", done.stderr


def test_a_first_session_that_is_asked_for_nothing_connects_all_the_same(stack: LocalStack) -> None:
    done = python(f"""
        import notebook_rt as nrt
        from tests.waiting import until

        rt = nrt.connect({stack.url!r}, {stack.anon_key!r})
        until(lambda: rt.status == "connected", 20, what=lambda: rt.status)
        print(rt.metrics["messages"], rt.status)
    """)
    assert done.stdout.endswith(" connected\n")


# In a kernel -----------------------------------------------------------------------------------


class Kernel:
    """A real ipykernel: cells in, text out."""

    def __init__(self) -> None:
        self.manager = KernelManager(kernel_name="python3")
        self.manager.start_kernel()
        self.client = self.manager.client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=scaled(60))

    def run(self, code: str, timeout: float = 60) -> str:
        """The cell's output; an error's traceback fails the test."""
        outputs: list[str] = []

        def hook(message: dict[str, Any]) -> None:
            kind, content = message["msg_type"], message["content"]
            if kind == "stream":
                outputs.append(content["text"])
            elif kind in ("execute_result", "display_data"):
                outputs.append(content["data"]["text/plain"])
            elif kind == "error":
                outputs.append("\n".join(content["traceback"]))

        reply = self.client.execute_interactive(code, timeout=scaled(timeout), output_hook=hook)
        assert reply["content"]["status"] == "ok", "".join(outputs)
        return "".join(outputs).strip()

    def restart(self) -> None:
        self.manager.restart_kernel(now=True)
        self.client.wait_for_ready(timeout=scaled(60))

    def close(self) -> None:
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)


@pytest.fixture(scope="module")
def kernel() -> Iterator[Kernel]:
    found = Kernel()
    yield found
    found.close()


def test_in_a_cell_with_and_without_await_and_after_the_cell_is_run_again(
    kernel: Kernel, connect: str, stack: LocalStack
) -> None:
    assert kernel.run(connect + "len(frame.df)") == "2"
    assert kernel.run("len((await rt.table('process_table', filter='id=eq.1').ready()).df)") == "1"
    assert kernel.run("nrt.run(frame.ready()); len(frame.df)") == "2"
    # Twice in one kernel, and the cell run again: one live project is left, with one table.
    listen = "heard = []\ndef listen(batch): heard.extend(c.key for c in batch)\nframe.on_change(listen);"
    for _ in range(3):
        assert kernel.run(connect + "len(frame.df)") == "2"
    kernel.run(listen)
    kernel.run(listen)
    kernel.run("import time; time.sleep(1.2)")
    stack.sql("insert into process_table values (3, 'three')")
    assert kernel.run("import time; time.sleep(0.5); heard, len(frame.df)") == "([3], 3)"
    alive = "import gc, time; _ = Out.clear(); gc.collect(); time.sleep(0.3); "
    alive += "from notebook_rt.net.loop import shared; len(shared().at_exit)"
    assert kernel.run(alive) == "1"


def test_events_arrive_while_a_cell_computes(
    kernel: Kernel, connect: str, stack: LocalStack, tmp_path: Path
) -> None:
    kernel.run(connect + "len(frame.df)")
    kernel.run("heard_at = []\nframe.on_change(lambda b: heard_at.append(time.time()));import time")
    kernel.run("time.sleep(1.2)")
    computing = tmp_path / "computing"
    message = kernel.client.execute(
        f"open({str(computing)!r}, 'w').close()\n"
        "begin = time.time()\nwhile time.time() < begin + 3: pass\n"
    )
    until(computing.exists)
    stack.sql("insert into process_table values (4, 'four')")
    written_at = time.time()
    assert message
    reply = kernel.client.get_shell_msg(timeout=scaled(20))
    assert reply["content"]["status"] == "ok"
    assert float(kernel.run("print(heard_at[0])")) - written_at < 1.5


def test_after_a_kernel_restart(kernel: Kernel, connect: str) -> None:
    kernel.run(connect + "len(frame.df)")
    kernel.restart()
    assert kernel.run(connect + "len(frame.df)") == "2"
