"""The promises of the repository: existing chores, a lock without hosts, one version."""

from __future__ import annotations

import json
import os
import re
import subprocess
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
import yaml

import notebook_rt
from notebook_rt.cli.main import ANNOUNCEMENTS

ROOT = Path(__file__).parent.parent
FILES = sorted((ROOT / ".github").rglob("*.yml"))
CHORES = set(re.findall(r"^(\w+)\)", (ROOT / "do").read_text(), re.M))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.name))
def test_a_workflow_is_yaml_and_runs_chores_that_exist(path: Path) -> None:
    assert yaml.safe_load(path.read_text())
    assert set(re.findall(r"\./do (\w+)", path.read_text())) <= CHORES


def test_what_a_comment_cites_stands_in_the_repository() -> None:
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    tracked = [Path(name) for name in listed.stdout.splitlines()]
    pages = {path.name: (ROOT / path).read_text() for path in tracked if path.suffix == ".md"}
    for path in tracked:
        if path.suffix != ".py" or path.parts[0] not in ("notebook_rt", "tests"):
            continue
        text = (ROOT / path).read_text()
        if path == Path("tests/test_repository.py"):
            continue
        for page, heading in re.findall(r'\b([\w-]+\.md)`*(?:,? "([^"\n]+)")?', text):
            if page in pages and heading:
                assert re.search(rf"^#+ .*{re.escape(heading)}", pages[page], re.M), (path, heading)
        for heading in re.findall(r"\(promises, ([a-z ]+)\)", text):
            assert re.search(rf"^## {heading}$", pages["promises.md"], re.M | re.I), (path, heading)
        for cited in re.findall(r"\b(docs/[\w/-]+\.md)\b", text):
            assert (ROOT / cited).is_file(), (path, cited)
        assert not re.search(r"\(issue \d+|\(design, ", text), path


def test_each_chore_is_in_the_help() -> None:
    told = subprocess.run([ROOT / "do", "help"], capture_output=True, text=True, check=True).stdout
    assert set(re.findall(r"\./do (\w+)", told)) | {"help"} == CHORES


def test_binder_opens_the_quickstart(tmp_path: Path) -> None:
    env = os.environ | {"HOME": str(tmp_path)}
    subprocess.run([ROOT / "binder" / "postBuild"], env=env, check=True)
    config = tmp_path / ".jupyter"
    settings = json.loads((config / "jupyter_server_config.json").read_text())
    for server in ("LabApp", "JupyterNotebookApp"):  # repo2docker's own command is the second
        opened = settings[server]["default_url"].removeprefix("/lab/tree/")
        assert (ROOT / opened).is_file()
    page = json.loads((config / "labconfig" / "page_config.json").read_text())
    assert page == {"disabledExtensions": {ANNOUNCEMENTS: True}}


def test_the_lock_has_names_versions_and_hashes_and_no_host() -> None:
    lock = (ROOT / "requirements-dev.lock").read_text()
    assert "://" not in lock
    for block in re.split(r"\n(?=\S)", lock.strip()):
        assert re.match(r"[\w.-]+==\S+", block), block
        assert "--hash=sha256:" in block, block


def test_every_dependency_is_locked() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named = [
        *project["dependencies"],
        *(one for extra in project["optional-dependencies"].values() for one in extra),
    ]
    names = {re.split(r"[<>=!\[; ]", one)[0].replace("_", "-").lower() for one in named} - {
        "notebook-rt"
    }
    locked = set(re.findall(r"^([\w.-]+)==", (ROOT / "requirements-dev.lock").read_text(), re.M))
    assert names <= locked


def test_the_version_stands_in_one_place() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert "version" not in project
    assert metadata.version("notebook_rt") == notebook_rt.__version__


def test_private_names_of_a_dependency_stand_behind_an_upper_bound() -> None:
    dependencies = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    for name in ("realtime", "supabase", "websockets"):
        (bound,) = [one for one in dependencies if re.match(rf"{name}\b", one)]
        assert "<" in bound


def test_notebooks_are_packed_without_pictures() -> None:
    """The wheel has their folder as it is."""
    listed = subprocess.run(
        ["git", "ls-files", "notebooks"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert {Path(name).suffix for name in listed.stdout.splitlines()} == {".ipynb"}


def test_the_readmes_moving_picture_is_small() -> None:
    for theme in ("light", "dark"):
        picture = ROOT / "docs" / "images" / f"quickstart-{theme}.webp"
        assert picture.name in (ROOT / "README.md").read_text()
        assert picture.stat().st_size <= 1_500_000
