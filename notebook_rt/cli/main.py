# PYTHON_ARGCOMPLETE_OK: the marker for global completion
"""The command line: ``notebook-rt demo``, ``local``, ``doctor``, ``watch``, ``queue`` and ``cache``.

``demo`` opens JupyterLab with the example notebooks on the embedded stack; ``local`` runs that stack
in the foreground; ``doctor`` checks this machine and the project, and prints the optional SQL; ``queue``
shows the unsent writes when no kernel runs; ``cache`` shows the stored tables.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from notebook_rt import __version__
from notebook_rt.cli import doctor, watch
from notebook_rt.quoting import did_you_mean

if TYPE_CHECKING:
    from notebook_rt.local import LocalStack

PACKAGE = Path(__file__).parent.parent
CHECKOUT_NOTEBOOKS = PACKAGE.parent / "notebooks"
INSTALLED_NOTEBOOKS = PACKAGE / "_notebooks"
ANNOUNCEMENTS = "@jupyterlab/apputils-extension:announcements"
"""The extension that asks over a newcomer's first notebook whether to show Jupyter's news."""

ACTIONS = ("list", "show", "retry", "discard", "export")
"""The actions of ``notebook-rt queue``."""

CACHE_ACTIONS = ("list", "clear", "path")
"""The actions of ``notebook-rt cache``."""

GRACE_SECONDS = 15.0


class Parser(argparse.ArgumentParser):
    """An ``ArgumentParser`` that suggests the command, action or option most similar to a mistyped one."""

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        choices = [] if action.choices is None else list(map(str, action.choices))
        if value not in choices and (meant := did_you_mean(value, choices)):
            raise argparse.ArgumentError(action, f"there is no {value!r}{meant}")
        super()._check_value(action, value)  # which lists the choices

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        parsed, unknown = self.parse_known_args(args, namespace)
        if unknown:
            command = self._command(getattr(parsed, "command", None))
            options = [one for action in command._actions for one in action.option_strings]
            name = unknown[0].partition("=")[0]
            if name.startswith("-") and (meant := did_you_mean(name, options)):
                command.error(f"there is no {name}{meant}")
            command.error(f"unrecognized arguments: {' '.join(unknown)}")
        return parsed

    def _command(self, name: str | None) -> argparse.ArgumentParser:
        """Return the parser of a command; for None, this one."""
        found = (
            action.choices[name]
            for action in self._actions
            if isinstance(action.choices, dict) and name in action.choices
        )
        return next(found, self)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit status."""
    parser = Parser(
        prog="notebook-rt",
        description="Live Supabase tables in a notebook: a demo, a local stack, and help when something "
        "is wrong.",
    )
    parser.add_argument("--version", action="version", version=f"notebook_rt {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")

    demo = commands.add_parser(
        "demo",
        help="open the example notebooks on the embedded stack",
        description="Open JupyterLab with a copy of the example notebooks, in ./notebook_rt-demo, on a "
        "local Supabase (a real PostgreSQL, for this machine only). Ctrl-C ends both.",
    )
    demo.add_argument("--no-browser", action="store_true", help="print the URL, open no browser")
    demo.add_argument("--port", type=int, default=8888, help="JupyterLab's port (default: 8888)")

    local = commands.add_parser(
        "local",
        help="run the embedded stack until Ctrl-C",
        description="Run a local Supabase (a real PostgreSQL, for this machine only), or attach to the "
        "one that runs, and print its URL and keys.",
    )
    local.add_argument(
        "directory",
        nargs="?",
        type=Path,
        help="where its data is kept (default: a directory of yours)",
    )
    local.add_argument(
        "--port", type=int, help="its port on 127.0.0.1 (default: its last one, or a free one)"
    )
    local.add_argument(
        "--show-secrets",
        action="store_true",
        help="print the service key and the database's URL even if the output is not a terminal",
    )

    doctor.arguments(
        commands.add_parser(
            "doctor",
            help="check this machine and the project; print the SQL that fixes what is wrong",
            description="Check which packages are installed, connect to the project of $SUPABASE_URL "
            "and $SUPABASE_KEY, or to the embedded stack, and check its tables: grants, policies, "
            "publication, key. What is wrong is printed with the SQL that fixes it; then the exit status "
            "is 1.",
        )
    )

    watch.arguments(
        commands.add_parser(
            "watch",
            help="a live table in the terminal, or its changes as JSON for a pipe",
            description="Show a table of the project of $SUPABASE_URL and $SUPABASE_KEY, or of the "
            "embedded stack, and keep it up to date until Ctrl-C. In a pipe, and with --json: its rows "
            "as inserts and then its changes, a line of JSON each.",
        )
    )

    queue = commands.add_parser(
        "queue",
        help="what waits to be sent, when no kernel runs",
        description="What waits to be sent, when no kernel runs. list: every operation, one a line; "
        "show ID: one, whole, as JSON; retry [ID]: send again what failed, and what a session left that "
        "ended while it was paused, all of it or one; discard ID: drop one, and the edits of a row that "
        "stand on it; export: everything as JSON. Nothing is sent from here: that is done by the next "
        "kernel of the same login.",
    )
    queue.add_argument(
        "action", nargs="?", default="list", choices=ACTIONS, help="see above (default: list)"
    )
    queue.add_argument("id", nargs="?", help="an operation's id, or the beginning of it")
    queue.add_argument("--file", type=Path, help="one queue's file (default: all of yours)")

    cache = commands.add_parser(
        "cache",
        help="what is kept of tables on this disk",
        description="What is kept of tables on this disk, for a kernel that starts before it has a "
        "network. list: each with its size and age, what was used last at the top; clear: remove all of "
        "it (a kernel that runs writes its tables again); path: where it is.",
    )
    cache.add_argument(
        "action", nargs="?", default="list", choices=CACHE_ACTIONS, help="see above (default: list)"
    )

    if "_ARGCOMPLETE" in os.environ:  # the shell requests completions
        with contextlib.suppress(ImportError):  # in the extra ``cli``
            import argcomplete

            argcomplete.autocomplete(parser)

    parsed = parser.parse_args(arguments)
    try:
        match parsed.command:
            case "demo":
                return _demo(browser=not parsed.no_browser, port=parsed.port)
            case "local":
                return _local(parsed.directory, parsed.port, secrets=parsed.show_secrets)
            case "doctor":
                return doctor.run(parsed)
            case "watch":
                return watch.run(parsed)
            case "cache":
                from notebook_rt.cli.cache import run as run_cache

                return run_cache(parsed)
            case None:
                parser.print_help()
                return 0
            case _:
                from notebook_rt.cli.queue import run  # imports pandas: not for --help

                return run(parsed)
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        from notebook_rt.errors import NotebookRTError

        if not isinstance(error, NotebookRTError):
            raise
        print(f"notebook-rt: {error}", file=sys.stderr)
        return 1


def _demo(*, browser: bool, port: int) -> int:
    """Open JupyterLab on a copy of the notebooks, so that changes stay in the copy."""
    if importlib.util.find_spec("jupyterlab") is None:
        print("JupyterLab is missing: pip install 'notebook_rt[lab]'", file=sys.stderr)
        return 1
    from notebook_rt.local import start

    source = CHECKOUT_NOTEBOOKS if CHECKOUT_NOTEBOOKS.is_dir() else INSTALLED_NOTEBOOKS
    here = Path.cwd() / "notebook_rt-demo"
    if not here.exists():
        shutil.copytree(source, here, ignore=shutil.ignore_patterns(".*", "__pycache__"))
    with start() as stack, tempfile.TemporaryDirectory() as config:
        print(
            f"A real PostgreSQL behind a local Supabase: {stack.url} (this machine only)",
            flush=True,
        )
        print(f"The notebooks: {here}", flush=True)
        command = [sys.executable, "-m", "jupyterlab", f"--ServerApp.root_dir={here}"]
        # Also for the printed URL.
        command += ["--LabApp.default_url=/lab/tree/01_quickstart.ipynb"]
        command += ["--ip=127.0.0.1", f"--port={port}"]
        command += [f"--{part}.log_level=ERROR" for part in ("LabApp", "ServerApp")]
        # Voila, if it is installed, makes traitlets print its deprecations.
        command.append("--ServerApp.jpserver_extensions=voila.server_extension=False")
        if not browser:
            command.append("--no-browser")
        if hasattr(os, "geteuid") and os.geteuid() == 0:
            command.append("--allow-root")
        pages = Path(config, "labconfig", "page_config.json")
        pages.parent.mkdir()
        pages.write_text(json.dumps({"disabledExtensions": {ANNOUNCEMENTS: True}}))
        paths = filter(None, (config, os.environ.get("JUPYTER_CONFIG_PATH")))
        return _until_signalled(
            command, {**os.environ, "JUPYTER_CONFIG_PATH": os.pathsep.join(paths)}
        )


def _until_signalled(command: Sequence[str], environment: Mapping[str, str]) -> int:
    """Run ``command`` until it ends, or until Ctrl-C or SIGTERM."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    # A separate process group: only this process gets Ctrl-C, and ends JupyterLab, kernels first.
    with subprocess.Popen(command, env=environment, process_group=0) as process:
        try:
            return process.wait()
        except KeyboardInterrupt:
            process.terminate()
            try:
                process.wait(GRACE_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
            return 130


def _local(directory: Path | None, port: int | None, *, secrets: bool) -> int:
    from notebook_rt.local import start

    with start(directory, port) as stack:
        for line in _described(stack, secrets=secrets or sys.stdout.isatty()):
            print(line)
        print("\nCtrl-C stops it.", flush=True)
        _until_interrupted()
    return 0


def _until_interrupted() -> NoReturn:
    """Wait for Ctrl-C, which raises KeyboardInterrupt at any moment.

    ``threading.Event.wait`` does not guarantee that: Condition.wait releases its lock one line before the
    code that acquires it again, and an exception in between becomes a RuntimeError. The sleeps are short,
    because a signal just before a sleep does not wake it.
    """
    while True:
        time.sleep(0.5)


def _described(stack: LocalStack, *, secrets: bool) -> Iterator[str]:
    yield "A local Supabase, for this machine only. Its keys open nothing else.\n"
    yield f"SUPABASE_URL={stack.url}"
    yield f"SUPABASE_KEY={stack.anon_key}"
    yield f"SUPABASE_PUBLISHABLE_KEY={stack.publishable_key}"
    if not secrets:
        yield "# SUPABASE_SERVICE_KEY and DATABASE_URL are not written into a log: --show-secrets prints them"
        return
    yield f"SUPABASE_SERVICE_KEY={stack.service_key}"
    yield f"DATABASE_URL={stack.dsn}"
