"""Binder's image, with repo2docker's own steps in a virtual environment: no Docker is needed.

``./do nightly`` installs repo2docker beside the others. It reads ``binder/`` of a clone and writes the steps
as a Dockerfile; those that are about this repository are run, and then the quickstart.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
OURS = re.compile(r"^RUN (.*binder/.*)$", re.M)


def run(command: list[str | Path], at: Path, **more: str) -> str:
    """Run ``command``; what it printed."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("SUPABASE_")}
    done = subprocess.run(
        command,
        cwd=at,
        env=clean | more,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.mark.nightly
@pytest.mark.timeout(1200)
def test_binder_builds_and_runs_the_quickstart(tmp_path: Path) -> None:
    home, prefix = tmp_path / "home", tmp_path / "prefix"
    run(["git", "clone", "-q", ROOT, home], tmp_path)
    said = run([sys.executable, "-m", "repo2docker", "--no-build", "--debug", "."], home)
    steps = OURS.findall(said)
    assert [step.split()[0] for step in steps] == [
        "${KERNEL_PYTHON_PREFIX}/bin/pip",
        "chmod",
        "./binder/postBuild",
    ]
    assert "python=3.11" in said
    venv.create(prefix, with_pip=True)
    surroundings = {"HOME": str(home), "KERNEL_PYTHON_PREFIX": str(prefix)}
    for step in steps:
        run(["sh", "-c", step], home, **surroundings)
    notebook = "notebooks/01_quickstart.ipynb"
    assert notebook in (home / ".jupyter/jupyter_server_config.json").read_text()
    path = f"{prefix / 'bin'}{os.pathsep}{os.environ['PATH']}"
    run([prefix / "bin/jupyter", "execute", notebook], home, **surroundings, PATH=path)
