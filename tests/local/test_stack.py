"""The life cycle of the local stack: it starts, is shared, keeps its data, and cleans up."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import nbformat
import psutil
import pytest
from nbclient import NotebookClient
from psycopg import pq

from notebook_rt import local
from notebook_rt.local import LocalStack, errors, postgres, start
from notebook_rt.local import stack as stack_module
from notebook_rt.local.context import StackOptions
from notebook_rt.local.directory import StackDirectory
from tests.waiting import scaled, until

REPOSITORY = Path(local.__file__).parents[2]


@pytest.fixture
def processes() -> Iterator[list[subprocess.Popen[str]]]:
    """Processes that a test starts; killed at its end, whatever happened."""
    started: list[subprocess.Popen[str]] = []
    yield started
    for process in started:
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                stream.close()


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stack that ran once and was stopped."""
    directory = tmp_path_factory.mktemp("made") / "stack"
    start(directory).stop()
    return directory


@pytest.fixture
def directory(made: Path, tmp_path: Path) -> Path:
    """A copy of such a stack, for one test: making a database takes a second."""
    copy = tmp_path / "stack"
    subprocess.run(["cp", "-a", made, copy], check=True)  # owners, too: shutil does not
    (copy / "port").unlink()
    return copy


def everything(stack: LocalStack) -> list[psutil.Process]:
    """The server, PostgreSQL and all of PostgreSQL's own processes."""
    server = psutil.Process(stack.pid)
    return [server, *server.children(recursive=True)]


def postmaster(stack: LocalStack) -> psutil.Process:
    (found,) = psutil.Process(stack.pid).children()
    return found


def gone(processes: list[psutil.Process], within: float = 5.0) -> bool:
    """Whether all of them end in time; whoever is dead and not yet reaped has ended."""

    def runs(process: psutil.Process) -> bool:
        try:
            return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:  # it has ended between the two
            return False

    deadline = time.monotonic() + scaled(within)
    while time.monotonic() < deadline:
        if not any(map(runs, processes)):
            return True
        time.sleep(0.01)
    return False


def holder(directory: Path, then: str, started: list[subprocess.Popen[str]]) -> list[str]:
    """Run a Python that starts a stack, prints what it prints first, and does `then`."""
    script = f"""
        import os, signal, sys, time
        from notebook_rt.local import start
        stack = start({str(directory)!r})
        {then}
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    started.append(process)
    assert process.stdout is not None
    return process.stdout.readline().split()


def test_data_keys_and_url_are_the_same_after_a_restart(tmp_path: Path) -> None:
    with start(tmp_path) as first:
        assert first.sql("show fsync") == [("on",)]
        first.sql("create table kept (id bigint primary key, note text)")
        first.sql("insert into kept values (%s, %s)", 9007199254740993, "it's 100 % kept")
    with start(tmp_path) as second:
        assert second.sql("select * from kept") == [(9007199254740993, "it's 100 % kept")]
        assert (second.url, second.anon_key) == (first.url, first.anon_key)


def test_two_stacks_at_once_know_nothing_of_each_other(tmp_path: Path) -> None:
    with start(tmp_path / "a") as a, start(tmp_path / "b") as b:
        a.sql("create table only_here (id int)")
        assert b.sql("select to_regclass('public.only_here')") == [(None,)]
        assert a.url != b.url
        headers = {"apikey": a.anon_key}
        assert httpx.get(f"{b.url}/rest/v1/only_here", headers=headers).status_code == 401


def test_nothing_runs_after_stop_and_stopping_twice_is_fine(directory: Path) -> None:
    stack = start(directory)
    running = everything(stack)
    assert len(running) > 2
    stack.stop()
    assert gone(running, within=0.2)
    stack.stop()
    with pytest.raises(errors.StackError, match="was stopped"):
        stack.sql("select 1")


def test_a_script_that_stops_nothing_ends_without_a_warning(directory: Path) -> None:
    """Under ``-X dev`` Python tells of everything left open, and asyncio of every slow turn."""
    script = f"""
        import notebook_rt as nrt
        stack = nrt.local.start({str(directory)!r})
        stack.sql("create table if not exists kept (id int primary key)")
        stack.sql("grant select on kept to anon")
        stack.sql("alter publication supabase_realtime add table kept")
        rt = nrt.connect(stack.url, stack.anon_key)
        print(len(rt.table("kept").df), stack.pid)
    """
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        check=True,
        timeout=scaled(90),
    )
    rows, pid = done.stdout.split()
    said = [line for line in done.stderr.splitlines() if not line.startswith("local stack: ")]
    assert (rows, said) == ("0", [])
    assert not psutil.pid_exists(int(pid)) or gone([psutil.Process(int(pid))])


def test_a_notebook_keeps_nothing_of_what_a_slow_start_said(directory: Path) -> None:
    """Nor does a page of Voila's, which runs a notebook in this way."""
    script = f"""
    from notebook_rt.local import stack

    stack.QUIET_SECONDS = 0.0
    with stack.start({str(directory)!r}):
        print("ready")
    """
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(textwrap.dedent(script))])
    NotebookClient(notebook, timeout=scaled(90)).execute()
    said, ready = notebook.cells[0].outputs
    assert said.data == {"text/html": "", "text/plain": ""}
    assert ready.text == "ready\n"


def test_a_second_user_attaches_and_the_last_one_stops_it(directory: Path) -> None:
    first, second = start(directory), start(directory)
    running = everything(first)
    assert second.pid == first.pid
    first.stop()
    assert second.sql("select 1") == [(1,)]
    second.stop()
    assert gone(running)


def test_a_stack_that_is_just_stopping_is_started_again(directory: Path) -> None:
    for _ in range(3):
        stack = start(directory)
        stack._lease.drop()  # as the end of the process does: nobody waits for the stop
        again = start(directory)
        assert again.sql("select 1") == [(1,)]
        again.stop()


def test_a_killed_parent_leaves_nothing_running(
    directory: Path, processes: list[subprocess.Popen[str]]
) -> None:
    (pid,) = holder(directory, "print(stack.pid, flush=True); time.sleep(60)", processes)
    server = psutil.Process(int(pid))
    running = [server, *server.children(recursive=True)]
    processes[0].kill()
    assert gone(running)


def test_a_parent_killed_while_it_starts_leaves_nothing_running(
    tmp_path: Path, processes: list[subprocess.Popen[str]]
) -> None:
    script = f"from notebook_rt.local import start; start({str(tmp_path)!r})"
    process = subprocess.Popen([sys.executable, "-c", script], text=True)
    processes.append(process)
    until(lambda: psutil.Process(process.pid).children(recursive=True), 30)
    children = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    assert gone(children, within=10)
    assert not list_running_in(tmp_path)


def list_running_in(directory: Path) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if Path(process.cwd()).is_relative_to(directory):
                found.append(process)
        except (psutil.Error, OSError):
            continue
    return found


def test_another_user_keeps_it_when_the_one_who_started_it_is_killed(
    directory: Path, processes: list[subprocess.Popen[str]]
) -> None:
    holder(directory, "print(stack.pid, flush=True); time.sleep(60)", processes)
    with start(directory) as stack:
        running = everything(stack)
        processes[0].kill()
        time.sleep(0.3)
        assert stack.sql("select 1") == [(1,)]
    assert gone(running)


def test_an_interrupted_cell_does_not_reach_the_server_and_ctrl_c_ends_all(
    directory: Path, processes: list[subprocess.Popen[str]]
) -> None:
    then = """
        try:
            print(stack.pid, flush=True)
            time.sleep(60)
        except KeyboardInterrupt:
            print(*stack.sql("select 'still here'")[0], flush=True)
        time.sleep(60)
    """.strip()
    (pid,) = holder(directory, then, processes)
    server = psutil.Process(int(pid))
    running = [server, *server.children(recursive=True)]
    os.killpg(processes[0].pid, signal.SIGINT)
    assert processes[0].stdout is not None
    assert processes[0].stdout.readline() == "still here\n"
    assert server.is_running()
    os.killpg(processes[0].pid, signal.SIGINT)
    assert gone(running)


def test_a_killed_server_takes_postgres_with_it_and_starts_again(directory: Path) -> None:
    stack = start(directory)
    stack.sql("create table kept (id int); insert into kept values (1)")
    database = everything(stack)[1:]
    psutil.Process(stack.pid).kill()
    assert gone(database)
    assert (directory / "running.json").exists(), "stale files are part of this"
    with pytest.raises(errors.StackError, match="start it again"):
        stack.restart_postgres()
    stack.stop()
    with start(directory) as again:
        assert again.sql("select * from kept") == [(1,)]


def test_what_was_committed_survives_kill_9_of_everything(directory: Path) -> None:
    stack = start(directory)
    stack.sql("create table kept (id int)")
    stack.sql("insert into kept select generate_series(1, 1000)")
    running = everything(stack)
    for process in running:
        with contextlib.suppress(psutil.NoSuchProcess):  # one that ends when another has
            process.kill()
    assert gone(running)
    stack.stop()
    with start(directory) as again:
        assert again.sql("select count(*) from kept") == [(1000,)]


def test_postgres_that_ends_by_itself_ends_the_stack(directory: Path) -> None:
    stack = start(directory)
    running = everything(stack)
    postmaster(stack).kill()
    assert gone(running)
    stack.stop()
    start(directory).stop()


def test_a_number_that_another_process_has_got_meanwhile_is_no_server(directory: Path) -> None:
    start(directory).stop()
    stale = directory / "postgres" / "postmaster.pid"
    stale.write_text(f"{os.getpid()}\n{directory}/postgres\n1\n5432\n\n127.0.0.1\n0 0\nready\n")
    with start(directory) as stack:
        assert stack.sql("select 1") == [(1,)]


def test_a_half_made_database_is_recreated(tmp_path: Path) -> None:
    StackDirectory.prepare(tmp_path).secrets()
    (tmp_path / "postgres.new").mkdir()
    (tmp_path / "postgres.new" / "PG_VERSION").write_text("18\n")
    with start(tmp_path) as stack:
        assert stack.sql("select 1") == [(1,)]


def test_postgres_restarts_beneath_the_server(directory: Path) -> None:
    with start(directory) as stack:
        stack.sql("create table t (id int primary key); insert into t values (1)")
        stack.sql("grant select on t to anon")
        before = postmaster(stack)
        stack.restart_postgres()
        assert not before.is_running()
        assert stack.sql("select * from t") == [(1,)]
        answer = httpx.get(f"{stack.url}/rest/v1/t", headers={"apikey": stack.anon_key})
        assert answer.json() == [{"id": 1}]


def test_who_follows_the_log_and_does_not_answer_holds_up_no_shutdown(directory: Path) -> None:
    """As the stack's own reader does while it waits for a connection that the shutdown has ended."""
    with start(directory) as stack:
        stack.sql("create table t (id int); alter publication supabase_realtime add table t")
        reader = pq.PGconn.connect(f"{stack.dsn}&replication=database".encode())
        reader.exec_(b"CREATE_REPLICATION_SLOT silent TEMPORARY LOGICAL pgoutput")
        start_ = b"START_REPLICATION SLOT silent LOGICAL 0/0"
        options = b" (proto_version '1', publication_names 'supabase_realtime')"
        assert reader.exec_(start_ + options).status == pq.ExecStatus.COPY_BOTH
        stack.sql("insert into t values (1)")
        stack.restart_postgres()
        assert "database system was shut down at" in (directory / "postgres.log").read_text()
        reader.finish()


def test_how_long_starting_and_stopping_take(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    took = {}
    for name in ("first start", "warm start"):
        began = time.perf_counter()
        stack = start(tmp_path)
        took[name] = time.perf_counter() - began
        began = time.perf_counter()
        start(tmp_path).stop()
        took["attach"] = time.perf_counter() - began
        began = time.perf_counter()
        stack.stop()
        took["stop"] = time.perf_counter() - began
    with capsys.disabled():
        print("\nlocal stack:", ", ".join(f"{name} {s * 1000:.0f} ms" for name, s in took.items()))
    assert took["warm start"] < 30
    assert took["stop"] < 5


# As whom it runs ------------------------------------------------------------------------------


def unprivileged_python(user: pwd.struct_passwd, home: Path) -> tuple[str, dict[str, str]]:
    """A Python of this version that `user` may run, with this environment's packages.

    What lies in a closed folder (`/root`, as a rule) is linked, or copied, into `home`.
    """
    opened = postgres._open_to_others
    python = Path(sys.executable).resolve()
    if opened(python) and opened(Path(sys.prefix)):
        return sys.executable, {}
    if not opened(python):
        python = Path(f"/usr/bin/python3.{sys.version_info.minor}")
        assert python.exists(), f"no Python that {user.pw_name} may run: install {python}"
    packages, code = Path(httpx.__file__).parents[1], REPOSITORY
    if not opened(packages):
        packages = shutil.copytree(packages, home / "packages", copy_function=linked)
    if not opened(code):
        code = home / "code"
        shutil.copytree(REPOSITORY / "notebook_rt", code / "notebook_rt", copy_function=linked)
    return str(python), {"PYTHONPATH": f"{packages}:{code}"}


def linked(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system
        shutil.copy2(source, target)


def test_it_runs_as_an_ordinary_user() -> None:
    """Started by root: as `nobody`, with a home of its own. Started by a user: as that one."""
    home = Path(tempfile.mkdtemp(prefix="nrt-home-"))
    script = textwrap.dedent("""
        from notebook_rt.local import start
        with start() as stack:
            stack.sql("create table t (id int); insert into t values (1)")
            print(stack.directory)
        with start() as stack:
            print(stack.sql("select * from t"))
    """)
    identity: dict[str, int | list[int]] = {}
    python, environment = sys.executable, dict[str, str]()
    if os.geteuid() == 0:
        user = pwd.getpwnam("nobody")
        os.chown(home, user.pw_uid, user.pw_gid)
        python, environment = unprivileged_python(user, home)
        identity = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
    try:
        done = subprocess.run(
            [python, "-c", script],
            cwd=home,
            env={"HOME": str(home), "PATH": os.defpath, **environment},
            capture_output=True,
            text=True,
            timeout=scaled(60),
            **identity,  # type: ignore[call-overload]  # mypy cannot see into the dictionary
        )
    finally:
        shutil.rmtree(home)
    assert done.returncode == 0, done.stderr
    where, rows = done.stdout.splitlines()
    assert Path(where).is_relative_to(home)
    assert rows == "[(1,)]"


def test_postgres_never_runs_as_root(stack: LocalStack) -> None:
    assert postmaster(stack).uids().effective != 0


def test_started_by_root_no_folder_is_opened_to_others(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    with start(closed / "stack") as stack:
        assert stack.sql("select 1") == [(1,)]
    assert closed.stat().st_mode & 0o777 == 0o700
    assert (closed / "stack").stat().st_mode & 0o777 == 0o700


@pytest.mark.slow
def test_programs_in_a_folder_closed_to_others_are_copied() -> None:
    """As in a virtual environment below `/root`, where PostgreSQL's own user cannot go."""
    nobody = pwd.getpwnam("nobody")
    binaries, _ = postgres._installation()
    base = Path(tempfile.mkdtemp(prefix="nrt-copies-"))
    base.chmod(0o755)
    open_to_all = base / "copies"
    umask = os.umask(0o077)  # the server's
    try:
        copy = postgres._copy_for(binaries, "1", into=open_to_all)
        assert postgres._open_to_others(copy)
        identity = {"user": nobody.pw_uid} if os.geteuid() == 0 else {}
        said = subprocess.run(
            [copy / "postgres", "--version"],
            capture_output=True,
            text=True,
            check=True,
            **identity,  # type: ignore[call-overload]  # mypy cannot see into the dictionary
        )
        assert "PostgreSQL" in said.stdout
        assert postgres._copy_for(binaries, "1", into=open_to_all) == copy
        inside = open_to_all / "closed" / "inside"
        inside.mkdir(parents=True)
        inside.parent.chmod(0o700)
        assert not postgres._open_to_others(inside)
    finally:
        os.umask(umask)
        shutil.rmtree(base)


# What goes wrong, by name ---------------------------------------------------------------------


def test_a_missing_package_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stack_module, "NEEDED", ("no_such_package",))
    with pytest.raises(errors.MissingExtraError, match=r"pip install 'notebook_rt\[local\]'"):
        start(tmp_path)


def test_a_port_in_use_is_named_and_nothing_is_left(directory: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(errors.PortInUseError, match=str(port)):
            start(directory, port=port)
    assert not list_running_in(directory)


def test_the_last_port_in_use_is_no_hindrance(directory: Path) -> None:
    with start(directory) as first:
        port = int(first.url.rpartition(":")[2])
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # its last user just left
        other.bind(("127.0.0.1", port))
        other.listen()
        with start(directory) as second:
            assert second.url != first.url


def test_a_port_that_was_asked_for_is_the_port(directory: Path) -> None:
    port = postgres._free_port()
    with start(directory, port=port) as stack:
        assert stack.url == f"http://127.0.0.1:{port}"


def test_other_options_than_the_running_ones_are_refused(directory: Path) -> None:
    options = StackOptions(row_limit=7)
    with start(directory, options=options) as stack:
        assert stack.options == options
        with start(directory) as same, start(directory, options=options) as same_again:
            assert same.options == same_again.options == options
        with pytest.raises(errors.OtherOptionsError, match="other options"):
            start(directory, options=StackOptions(row_limit=8))
        with pytest.raises(errors.OtherOptionsError, match="port"):
            start(directory, port=1)
        assert stack.sql("select 1") == [(1,)]


def test_a_directory_that_holds_other_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(errors.DirectoryError, match="other files"):
        start(tmp_path)


def test_a_file_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(errors.DirectoryError, match="directory of your own"):
        start(tmp_path / "file" / "stack")


def test_a_directory_of_another_version_is_refused(directory: Path) -> None:
    start(directory).stop()
    (directory / "postgres" / "PG_VERSION").write_text("12\n")
    with pytest.raises(errors.DirectoryError, match="PostgreSQL 12"):
        start(directory)
    (directory / "secrets.json").write_text('{"format": 0}')
    with pytest.raises(errors.DirectoryError, match="another version"):
        start(directory)


async def test_a_database_of_another_user_is_refused(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when a container was built anew and its users have other numbers."""
    monkeypatch.setattr(postgres, "_installation", lambda: (Path(), "18"))
    monkeypatch.setattr(postgres, "_user", lambda: pwd.getpwnam("daemon"))
    with pytest.raises(errors.DirectoryError, match="chown -R"):
        await postgres.Postgres(directory, "password").start()


def test_a_directory_of_another_user_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: tmp_path.stat().st_uid + 1)
    with pytest.raises(errors.DirectoryError, match="belongs to user"):
        start(tmp_path)
