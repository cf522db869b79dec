"""Every Python block of the README runs as it stands, in a process of its own, and makes no noise."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from notebook_rt.local import LocalStack
from tests.waiting import scaled

ROOT = Path(__file__).parent.parent
BLOCKS = re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), re.M | re.S)


@pytest.fixture(scope="module")
def project(stack: LocalStack) -> LocalStack:
    """The project that the README talks of."""
    stack.sql("drop table if exists prices")
    stack.sql(
        "create table prices (symbol text, month date, price float8, primary key (symbol, month))"
    )
    stack.sql("insert into prices values ('AAPL', '2010-03-01', 223.02)")
    stack.sql("alter publication supabase_realtime add table prices")
    stack.sql("grant select, insert, update, delete on prices to anon, authenticated")
    return stack


@pytest.mark.parametrize("block", BLOCKS, ids=range(1, len(BLOCKS) + 1))
def test_readme_block_runs_without_noise(block: str, project: LocalStack, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "default::RuntimeWarning", "-c", block],
        env=os.environ
        | {
            "SUPABASE_URL": project.url,
            "SUPABASE_KEY": project.anon_key,
            "XDG_STATE_HOME": str(tmp_path),
        },
        capture_output=True,
        text=True,
        timeout=scaled(60),
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert "never retrieved" not in done.stderr


def test_readme_names_the_two_commands() -> None:
    text = (ROOT / "README.md").read_text()
    assert "./do demo" in text
    assert "./do test" in text
