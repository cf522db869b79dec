"""The command line, run like a user runs it."""

from __future__ import annotations

import fcntl
import itertools
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

import pytest

import notebook_rt as nrt
from notebook_rt.cli import doctor
from notebook_rt.cli.main import ANNOUNCEMENTS, _until_interrupted, main
from notebook_rt.local import LocalStack
from tests.disk.model import written
from tests.waiting import scaled, until

COMMAND = [sys.executable, "-m", "notebook_rt"]


def environment(home: Path, **more: str) -> dict[str, str]:
    clean = {k: v for k, v in os.environ.items() if not k.startswith("SUPABASE_")}
    return clean | {"XDG_STATE_HOME": str(home), "XDG_DATA_HOME": str(home)} | more


def run(home: Path, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments],
        env=environment(home, **more),
        capture_output=True,
        text=True,
        timeout=scaled(60),
        check=False,
    )


def test_doctor_says_what_is_there_and_that_the_project_answers(
    stack: LocalStack, tmp_path: Path
) -> None:
    done = run(tmp_path, "doctor", SUPABASE_URL=stack.url, SUPABASE_KEY=stack.anon_key)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "✓ pandas" in done.stdout
    assert done.stdout.count("✗") == 0
    assert stack.anon_key not in done.stdout


def test_doctor_says_what_is_wrong(tmp_path: Path) -> None:
    done = run(tmp_path, "doctor", SUPABASE_URL="http://127.0.0.1:9", SUPABASE_KEY="x")
    assert done.returncode == 1
    assert "✗" in done.stdout
    assert "Traceback" not in done.stderr


@pytest.mark.usefixtures("ledger")  # takes back what other tests must not find
def test_doctor_prints_sql_that_postgres_takes(stack: LocalStack, tmp_path: Path) -> None:
    done = run(tmp_path, "doctor", "--sql")
    assert done.returncode == 0, done.stderr
    stack.sql(done.stdout)
    stack.sql(done.stdout)  # again: somebody is not sure whether it was done
    stack.sql("drop function nrt_digest")


def offered(home: Path, line: str) -> list[str]:
    """What Tab offers at the end of ``line``, in a bash that was told of the command."""
    script = """
    eval "$(register-python-argcomplete notebook-rt)"
    COMP_LINE=$1 COMP_POINT=${#1} COMP_TYPE=9
    _python_argcomplete notebook-rt
    printf '%s\\n' "${COMPREPLY[@]}"
    """
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", script, "bash", line],
        env=environment(home, PATH=path),
        capture_output=True,
        text=True,
        timeout=scaled(60),
        check=True,
    )
    assert done.stderr == ""
    return done.stdout.split()


def test_tab_completes_commands_options_and_actions(tmp_path: Path) -> None:
    assert offered(tmp_path, "notebook-rt do") == ["doctor"]
    assert "--no-browser" in offered(tmp_path, "notebook-rt demo --")
    assert {"list", "retry", "discard"} <= set(offered(tmp_path, "notebook-rt queue "))


def test_without_the_library_tab_offers_nothing_and_makes_no_noise(tmp_path: Path) -> None:
    (tmp_path / "argcomplete.py").write_text("raise ImportError")
    done = run(tmp_path, "--version", PYTHONPATH=str(tmp_path), _ARGCOMPLETE="1")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("command", ["", "demo", "local", "doctor", "queue", "cache"])
def test_help_explains_the_command(tmp_path: Path, command: str) -> None:
    done = run(tmp_path, *command.split(), "--help", COLUMNS="200")
    assert done.returncode == 0, done.stderr
    usage, description, *_ = done.stdout.split("\n\n")
    assert usage.startswith("usage: notebook-rt")
    assert "`" not in done.stdout
    assert len(description.split()) > 5


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (
            "docter",
            "notebook-rt: error: argument COMMAND: there is no 'docter' (did you mean 'doctor'?)",
        ),
        ("queue lst", "there is no 'lst' (did you mean 'list'?)"),
        ("doctor --jsn", "notebook-rt doctor: error: there is no --jsn (did you mean '--json'?)"),
        ("watch prices --fiter=id=eq.1", "there is no --fiter (did you mean '--filter'?)"),
        ("--verson", "notebook-rt: error: there is no --verson (did you mean '--version'?)"),
        ("xyz", "choose from"),
        ("doctor --xyz", "unrecognized arguments: --xyz"),
    ],
)
def test_what_is_mistyped_is_told_what_is_near_it(
    capsys: pytest.CaptureFixture[str], typed: str, said: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(typed.split())
    assert ended.value.code == 2
    assert said in capsys.readouterr().err


def test_cache_lists_clears_and_says_where_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    def said(*arguments: str) -> str:
        assert main(["cache", *arguments]) == 0
        return capsys.readouterr().out

    assert said() == "nothing is kept\n"
    assert list(doctor.kept()) == []
    table = written()
    assert said("path") == f"{table.path.parent.parent}\n"
    assert "public.prices  10 rows, " in said()
    assert "of https://x.supabase.co" in said("list")
    (finding,) = doctor.kept()
    assert finding.text.startswith("1 table is kept")
    table.path.write_bytes(b"torn")
    assert "not used: it is cut off" in said()
    assert [one.level for one in doctor.kept()] == ["ok", "note"]
    assert said("clear").endswith("freed\n")
    assert said() == "nothing is kept\n"


def test_queue_without_a_queue_is_calm(tmp_path: Path) -> None:
    done = run(tmp_path, "queue")
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr


def test_an_error_is_one_line(tmp_path: Path) -> None:
    done = run(tmp_path, "queue", "show", "nothing", "--file", str(tmp_path / "none"))
    assert done.returncode == 1
    assert done.stderr.startswith("notebook-rt: ")
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.slow
def test_local_prints_where_it_is_and_ctrl_c_ends_it(tmp_path: Path) -> None:
    with started(tmp_path, "local", str(tmp_path / "db")) as process:
        url, _ = read_until(process, r"SUPABASE_URL=(\S+)")
        read_until(process, "Ctrl-C")
        process.send_signal(signal.SIGINT)
        status = process.wait(scaled(20))
        assert process.stdout is not None
        said = process.stdout.read()
        assert status == 130, said
        assert "Traceback" not in said
    with pytest.raises(OSError, match="refused"):
        urlopen(f"{url}/health", timeout=scaled(5))


def test_ctrl_c_is_ctrl_c_at_every_line_of_the_wait() -> None:
    armed: list[int] = []

    def interrupt(*_: object) -> None:
        if armed:
            armed.clear()
            raise KeyboardInterrupt

    def tracing(line: int) -> Callable[[FrameType, str, object], Any]:
        lines = itertools.count()

        def trace(frame: FrameType, event: str, _: object) -> Any:
            if event == "line" and next(lines) == line:
                interrupt()
            return trace

        return trace

    def wait(line: int) -> None:
        sys.settrace(tracing(line))
        _until_interrupted()

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        for line in range(40):
            armed.append(line)
            signal.setitimer(signal.ITIMER_REAL, 0.05)  # where the wait has fewer lines
            with pytest.raises(KeyboardInterrupt):
                wait(line)
            sys.settrace(None)
    finally:
        sys.settrace(None)
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@pytest.mark.slow
@pytest.mark.parametrize("asked", [False, True])
def test_what_local_prints_into_a_log_has_secrets_only_if_asked(
    tmp_path: Path, *, asked: bool
) -> None:
    more = ["--show-secrets"] if asked else []
    with started(tmp_path, "local", str(tmp_path / "db"), *more) as process:
        _, said = read_until(process, "Ctrl-C")
        assert "SUPABASE_KEY=" in said
        assert "SUPABASE_PUBLISHABLE_KEY=sb_publishable_" in said
        assert ("\nSUPABASE_SERVICE_KEY=" in said) is asked
        assert ("\nDATABASE_URL=" in said) is asked
        assert ("--show-secrets" in said) is not asked
        process.send_signal(signal.SIGINT)
        assert process.wait(scaled(20)) == 130


@pytest.mark.slow
def test_demo_opens_the_notebooks_in_jupyterlab_and_leaves_nothing_running(tmp_path: Path) -> None:
    with started(tmp_path, "demo", "--no-browser", "--port", "8947") as process:
        url, said = read_until(process, r"(http://127\.0\.0\.1:\d+/lab\S*token=\w+)")
        assert "/lab/tree/01_quickstart.ipynb?" in url
        contents = url.replace("/lab/tree/01_quickstart.ipynb", "/api/contents")
        assert "01_quickstart.ipynb" in fetched(contents)
        page = fetched(url)
        disabled = re.search(r'"disabledExtensions": \[[^]]*\]', page)
        assert disabled is not None, page
        assert ANNOUNCEMENTS in disabled[0], "no question before the first look"
        process.send_signal(signal.SIGTERM)
        assert process.wait(scaled(30)) == 130
        assert process.stdout is not None
        said += process.stdout.read()
        assert not re.search(r"warning|deprecat|traceback|node\.js", said, re.IGNORECASE), said
    with pytest.raises(OSError, match="refused"):
        urlopen(url, timeout=scaled(5))


@contextmanager
def killed_at_the_end(process: subprocess.Popen[Any]) -> Iterator[None]:
    try:
        yield
    finally:
        process.kill()  # nothing happens to one that has ended


@contextmanager
def started(home: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [*COMMAND, *arguments],
        env=environment(home, PYTHONUNBUFFERED="1"),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=home,
    ) as process:
        try:
            yield process
        finally:
            process.terminate()


def read_until(process: subprocess.Popen[str], wanted: str) -> tuple[str, str]:
    """What was ``wanted``, and all lines up to it; the test's own timeout ends a silent process."""
    text = ""
    assert process.stdout is not None
    for line in process.stdout:
        text += line
        if found := re.search(wanted, line):
            return found[found.lastindex or 0], text
    raise AssertionError(f"it ended: {text}")


def fetched(url: str) -> str:
    """JupyterLab prints its URL a moment before it listens."""
    for _ in range(100):
        try:
            return str(urlopen(url, timeout=scaled(10)).read().decode())
        except URLError:
            time.sleep(0.1)
    raise AssertionError(f"nobody listens at {url}")


@pytest.mark.parametrize("module", ["notebook_rt", "notebook_rt.cli.main"])
def test_neither_the_import_nor_the_help_waits_for_pandas(module: str) -> None:
    script = f"""
import contextlib, importlib, sys
found = importlib.import_module({module!r})
if hasattr(found, "main"):
    with contextlib.suppress(SystemExit):
        found.main(["--help"])
print("pandas" in sys.modules, file=sys.stderr)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stderr.strip() == "False"


def test_without_a_command_it_helps_and_it_says_its_version(tmp_path: Path) -> None:
    bare = run(tmp_path)
    assert bare.returncode == 0
    assert "watch" in bare.stdout
    assert run(tmp_path, "--version").stdout == f"notebook_rt {nrt.__version__}\n"


@pytest.fixture
def prices(stack: LocalStack) -> Iterator[str]:
    stack.sql(
        "create table cli_prices (id int primary key, symbol text, price numeric);"
        "insert into cli_prices select g, E'\\x1b[2JS' || g, g + 0.5 from generate_series(1, 30) g;"
        "grant select on cli_prices to anon, authenticated, service_role;"
        "alter publication supabase_realtime add table cli_prices"
    )
    yield "cli_prices"
    stack.sql("drop table cli_prices")


def test_a_watched_table_is_lines_of_json_in_a_pipe(
    stack: LocalStack, prices: str, tmp_path: Path
) -> None:
    project = {"SUPABASE_URL": stack.url, "SUPABASE_KEY": stack.anon_key}
    once = run(tmp_path, "watch", prices, "--filter", "id=lte.2", "--once", **project)
    rows = [json.loads(line) for line in once.stdout.splitlines()]
    assert [(row["kind"], row["key"], row["new"]["price"]) for row in rows] == [
        ("insert", 1, 1.5),
        ("insert", 2, 2.5),
    ]
    process = subprocess.Popen(
        [*COMMAND, "watch", prices, "--order", "id", "--limit", "1"],
        env=environment(tmp_path, **project),
        stdout=subprocess.PIPE,
        text=True,
    )
    with process, killed_at_the_end(process):
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["key"] == 1
        stack.sql(f"update {prices} set price = 99 where id = 1")
        change = json.loads(process.stdout.readline())
        assert (change["kind"], change["old"]["price"], change["new"]["price"]) == (
            "update",
            1.5,
            99,
        )
        process.send_signal(signal.SIGINT)
        assert process.wait(scaled(10)) == 130


def test_watching_ends_when_nobody_reads_any_more(
    stack: LocalStack, prices: str, tmp_path: Path
) -> None:
    process = subprocess.Popen(
        [*COMMAND, "watch", prices, "--limit", "1"],
        env=environment(tmp_path, SUPABASE_URL=stack.url, SUPABASE_KEY=stack.anon_key),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process, killed_at_the_end(process):
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()  # as `head -1` does; nothing changes in the table
        assert process.wait(scaled(10)) == 0
        assert process.stderr.read() == ""


def test_a_watched_table_is_drawn_in_a_terminal_and_obeys_nothing_in_it(
    stack: LocalStack, prices: str, tmp_path: Path
) -> None:
    project = {"SUPABASE_URL": stack.url, "SUPABASE_KEY": stack.anon_key, "TERM": "xterm"}
    project |= {"LINES": "20", "COLUMNS": "100"}  # else another test's, where it has set them
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 20, 100, 0, 0))
    process = subprocess.Popen(
        [*COMMAND, "watch", prices, "--order", "price.desc"],
        env=environment(tmp_path, **project),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    seen = bytearray()

    def reads(text: str) -> bool:
        while select.select([ours], [], [], 0)[0]:
            try:
                seen.extend(os.read(ours, 100_000))
            except OSError:  # the other end has closed
                break
        return text in seen.decode(errors="replace")

    with process, killed_at_the_end(process):
        until(lambda: reads("30 rows, the first 14"), 30, what=seen.decode)
        assert reads("�[2JS30")
        assert b"\x1b[2JS" not in seen
        stack.sql(f"update {prices} set price = 77.25 where id = 1")
        until(lambda: reads("77.25"), 30, what=seen.decode)
        until(lambda: reads("\x1b[1;7m"), what=seen.decode)  # what has just changed is marked
        process.send_signal(signal.SIGINT)
        assert process.wait(scaled(10)) == 130
    reads("")
    os.close(ours)
    assert "Traceback" not in seen.decode()
