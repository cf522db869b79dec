"""Every example notebook runs from top to bottom in a real kernel, on a stack of its own."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from unittest import mock

import nbformat
import pytest
from nbclient import NotebookClient

from notebook_rt.local import StackOptions, start
from tests.conftest import OLD_PLATFORM, before_2026
from tests.waiting import scaled

NOTEBOOKS = sorted((Path(__file__).parent.parent / "notebooks").glob("*.ipynb"))
SHOWN = {"03_is_it_still_true.ipynb": ("('live', False)", "'drift': 10", "0 rows after")}
"""What the text of a notebook says that its cells show."""


def platform() -> AbstractContextManager[object]:
    """The stack that a notebook attaches to, where it is not to start one as it is by default."""
    return start(options=before_2026(StackOptions())) if OLD_PLATFORM else nullcontext()


@pytest.mark.slow
@pytest.mark.timeout(180)
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_notebook_runs_from_top_to_bottom(path: Path, tmp_path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook, timeout=scaled(120), resources={"metadata": {"path": str(path.parent)}}
    )
    own = {"XDG_STATE_HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    with mock.patch.dict(os.environ, own), platform():
        os.environ.pop("SUPABASE_URL", None)
        client.execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    errors = [output.text for output in outputs if output.get("name") == "stderr"]
    assert errors == [], "a demo makes no noise"
    texts = [
        output.get("text") or output.get("data", {}).get("text/plain", "") for output in outputs
    ]
    assert [one for one in SHOWN.get(path.name, ()) if one not in "\n".join(texts)] == []


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_notebook_is_committed_without_outputs(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    outputs = [cell.get("outputs") for cell in notebook.cells if cell.get("outputs")]
    assert outputs == []


def test_there_is_a_quickstart() -> None:
    assert "01_quickstart.ipynb" in [path.name for path in NOTEBOOKS]
