"""The unmodified `@supabase/supabase-js` from npm against the local stack, in Node.

The scenarios are `js/scenarios.mjs`; their packages are installed once, beside other caches of
the user, at the exact versions of `js/package-lock.json`.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import platformdirs
import pytest

import notebook_rt as nrt
from notebook_rt.local import LocalStack
from tests.waiting import scaled, until

JS = Path(__file__).parent / "js"


@pytest.fixture(scope="module")
def project() -> Path:
    """A folder with the scenarios and what they import."""
    lock = (JS / "package-lock.json").read_bytes()
    cache = platformdirs.user_cache_path("notebook_rt") / "supabase-js"
    folder = cache / hashlib.sha256(lock).hexdigest()[:16]
    if not folder.exists():
        cache.mkdir(parents=True, exist_ok=True)
        fresh = Path(tempfile.mkdtemp(dir=cache))
        for name in ("package.json", "package-lock.json"):
            shutil.copy(JS / name, fresh)
        command = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
        installed = subprocess.run(
            command, cwd=fresh, capture_output=True, text=True, timeout=scaled(100)
        )
        assert installed.returncode == 0, installed.stderr
        try:
            fresh.rename(folder)
        except OSError:  # another run was first
            shutil.rmtree(fresh)
    shutil.copy(JS / "scenarios.mjs", folder)
    return folder


@pytest.fixture(scope="module", autouse=True)
def schema(stack: LocalStack) -> Iterator[None]:
    stack.sql("""
        create table js_notes (
            id bigint primary key, owner uuid not null default auth.uid(), title text not null,
            n int, tags text[] default '{}', data jsonb);
        alter table js_notes enable row level security;
        create policy own on js_notes to authenticated
            using (owner = auth.uid()) with check (owner = auth.uid());
        create function js_add(a int, b int) returns int stable language sql as 'select a + b';
        grant select, insert, update, delete on js_notes to anon, authenticated, service_role;
        grant execute on function js_add to anon, authenticated;
        alter publication supabase_realtime add table js_notes""")
    yield
    stack.sql("drop function js_add; drop table js_notes")


@pytest.mark.parametrize("scenario", ["auth", "rest", "changes", "broadcast", "presence"])
def test_supabase_js(stack: LocalStack, project: Path, scenario: str) -> None:
    play(scenario, stack, project)


def test_rows_written_by_supabase_js_are_in_df(stack: LocalStack, project: Path) -> None:
    stack.sql("create table js_prices (id bigint primary key, name text)")
    stack.sql("alter publication supabase_realtime add table js_prices")
    stack.sql("grant select, insert, update, delete on js_prices to anon, authenticated")
    with nrt.connect(stack.url, stack.anon_key) as session:
        prices = session.table("js_prices").wait(scaled(10))
        assert prices.df.empty
        play("writes", stack, project)
        wanted = {1: "changed", 2: "b too"}
        until(lambda: prices.df["name"].to_dict() == wanted, what=lambda: prices.df)
        until(lambda: prices.status == "live", what=lambda: prices)
    stack.sql("drop table js_prices")


def play(scenario: str, stack: LocalStack, project: Path) -> None:
    environment = {
        **os.environ,
        "SUPABASE_URL": stack.url,
        "SUPABASE_ANON_KEY": stack.anon_key,
        "SUPABASE_SERVICE_KEY": stack.service_key,
    }
    ran = subprocess.run(
        ["node", "scenarios.mjs", scenario],
        cwd=project,
        env=environment,
        capture_output=True,
        text=True,
        timeout=scaled(60),
    )
    assert ran.returncode == 0, ran.stderr + ran.stdout
