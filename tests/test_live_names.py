"""Any name valid in PostgreSQL works for tables, functions and columns, in every interface."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator

import pytest

import notebook_rt as nrt
from notebook_rt.cli import doctor
from notebook_rt.cli.findings import Finding
from notebook_rt.local import LocalStack
from tests.waiting import scaled, until

NAMES = (
    "x{y}",
    "{table}",
    "a%b",
    "a%2Fb",
    "a#b?c",
    "a/b",
    "a\\b",
    " a b ",
    "größe 大小",
    "a\"b'c",
    "a+b&c=d",
    "a.b,c:d;e",
    "(x)[y]*",
    "-",
    "rpc",
    "x" * 63,
)
"""But for ``.`` and ``..``, which no path of a URL can name."""


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest, stack: LocalStack) -> Iterator[str]:
    """A table and a function of that name."""
    name: str = request.param
    said = quoted(name)
    stack.sql(
        f"create table {said} (id bigint primary key, {said} text);"
        f"alter publication supabase_realtime add table {said};"
        f"grant all on {said} to anon, authenticated, service_role;"
        f"insert into {said} values (1, 'a');"
        f"create function {said}(n int) returns int language sql as 'select n + 1';"
        f"grant execute on function {said} to anon"
    )
    yield name
    stack.sql(f"drop table {said}; drop function {said}")


def test_any_name_is_read_written_followed_and_called(stack: LocalStack, name: str) -> None:
    said = quoted(name)
    with nrt.connect(stack.url, stack.anon_key) as rt:
        frame = rt.table(name)
        frame.wait(scaled(10))
        until(lambda: frame.status == "live", what=lambda: repr(frame))
        frame.insert({"id": 2, name: "b"})
        frame.edit(1, **{name: "c"})
        assert not rt.queue.flush(scaled(10)).own
        stack.sql(f"insert into {said} values (3, 'd')")
        until(lambda: list(frame.df[name]) == ["c", "b", "d"], what=lambda: frame.df)
        frame.delete(2)
        assert not rt.queue.flush(scaled(10)).own
        assert stack.sql(f"select * from {said} order by id") == [(1, "c"), (3, "d")]
        assert rt.rpc(name, {"n": 1}) == 2


def test_the_doctor_knows_a_table_of_any_name(
    stack: LocalStack,
    name: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SUPABASE_URL", stack.url)
    monkeypatch.setenv("SUPABASE_KEY", stack.anon_key)
    parser = argparse.ArgumentParser()
    doctor.arguments(parser)
    doctor.run(parser.parse_args(["--json", "--", name]))
    found = [Finding(**one) for one in json.loads(capsys.readouterr().out)]
    said = "\n".join(one.text for one in found if one.level == "wrong")
    assert "no Supabase project" not in said
    assert name not in said
