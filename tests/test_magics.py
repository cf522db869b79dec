"""``%load_ext notebook_rt``: %rt, and Tab completion inside quotes, in IPython."""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import notebook_rt as nrt
from notebook_rt.local import LocalStack
from notebook_rt.magics import offered
from notebook_rt.magics import rt as magic
from tests.waiting import scaled


@pytest.fixture
def names(stack: LocalStack) -> Iterator[dict[str, Any]]:
    stack.sql(
        "drop table if exists magic_prices; create table magic_prices (symbol text primary key, price int, "
        "\"two words\" int); insert into magic_prices values ('AAPL', 1, 1), ('ADBE', 2, 2), ('MSFT', 3, 3);"
        "grant select, update on magic_prices to anon; "
        "alter publication supabase_realtime add table magic_prices"
    )
    with nrt.connect(stack.url, stack.anon_key) as rt:
        yield {"rt": rt, "prices": rt.table("magic_prices").wait(scaled(10)), "other": 5}
    stack.sql("drop table magic_prices")


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ('x = rt.table("magic_', ("magic_", ["magic_prices"])),
        ("rt.query('magic_p", ("magic_p", ["magic_prices"])),
        ('rt.query("v", depends_on=["a", "magic_', ("magic_", ["magic_prices"])),
        ('prices.at["A', ("A", ["AAPL", "ADBE"])),
        ('prices.get("M', ("M", ["MSFT"])),
        ('prices.edit("A', ("A", ["AAPL", "ADBE"])),
        ('prices.at["AAPL", "p', ("p", ["price"])),
        ('prices.edit("AAPL", pr', ("pr", ["price="])),
        ('prices.edit("AAPL", price=f(1), sy', ("sy", ["symbol="])),
        ("prices.insert(", ("", ["symbol=", "price="])),
        ('prices.grid(columns=["price", "tw', ("tw", ["two words"])),
        ('prices.plot(y="pr', ("pr", ["price"])),
        ('other.table("magic_', ("", [])),
        ('nobody.get("A', ("", [])),
        ("rt.table(magic_", ("", [])),
    ],
)
def test_tab_offers_tables_columns_and_keys(
    names: dict[str, Any], line: str, wanted: tuple[str, list[str]]
) -> None:
    assert offered(names, line) == wanted


@given(st.text("rt.table(\"'at[],=x) ", max_size=60))
def test_whatever_is_typed_is_looked_at_in_a_moment(line: str) -> None:
    assert offered({}, line) == ("", [])
    assert offered({}, "rt.query(" + line * 50) == ("", [])


def test_the_magic_says_how_it_is(
    names: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert magic(names, "") is None
    said = capsys.readouterr().out
    assert said.startswith(f"rt: {names['rt'].url}, ")
    assert "\n  prices: magic_prices, " in said
    assert ", 3 rows" in said
    assert "magic_prices" in magic(names, "tables").index
    assert repr(magic(names, "queue rt")) == repr(names["rt"].queue)
    assert magic(names, "reconnect") is None
    assert capsys.readouterr().out == ""
    for line, answer in (
        ("tables nobody", "no session 'nobody'"),
        ("nonsense", "%rt tables"),
    ):
        assert magic(names, line) is None
        assert answer in capsys.readouterr().out
    assert magic({}, "") is None
    assert "rt = nrt.connect()" in capsys.readouterr().out


def test_a_frame_that_cannot_be_derived_is_a_line_of_the_magic(
    names: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    prices = names["prices"]
    # A function of the user's is called first when it is read.
    names["broken"] = prices.select(half=lambda df: df["nothing"] / 2)
    assert magic(names, "") is None
    lines = capsys.readouterr().out.splitlines()
    [line] = [line for line in lines if line.startswith("  broken: ")]
    assert ", error: select half: KeyError: 'nothing'" in line
    assert any(line.startswith("  prices: magic_prices, ") for line in lines)


def test_in_a_shell_of_ipython(names: dict[str, Any], stack: LocalStack) -> None:
    """In a process of its own: IPython keeps one shell a process."""
    code = """
        import sys
        from IPython.core.completer import provisionalcompleter
        from IPython.core.interactiveshell import InteractiveShell
        shell = InteractiveShell.instance()
        shell.run_line_magic("load_ext", "notebook_rt")
        shell.run_cell("import notebook_rt as nrt; rt = nrt.connect(*%r)" % (sys.argv[1:],))
        line = 'rt.table("magic_'
        with provisionalcompleter():
            for one in shell.Completer.completions(line, len(line)):
                print(line[:one.start] + one.text)
        shell.run_line_magic("rt", "status")
        shell.run_cell("prices = rt.table('magic_prices').wait(10)")
        for cell in ("prices.edit('AAPL', stok=3)", "rt.rpc('nope')", "prices.where('stok=gt.1')"):
            print("<<<")
            shell.run_cell(cell)
            print(">>>")
        shell.run_cell("rt.close()")
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), stack.url, stack.anon_key],
        capture_output=True,
        text=True,
        timeout=scaled(60),
    )
    assert done.returncode == 0, done.stderr
    assert 'rt.table("magic_prices\n' in done.stdout
    assert f"rt: {stack.url}, " in done.stdout
    mistakes = re.findall("<<<\n(.*?)>>>", done.stdout, re.DOTALL)
    assert len(mistakes) == 3
    for said in mistakes:  # the user's own line and the message
        assert len(said.splitlines()) <= 8, said
        assert "Error" in said
        assert "/notebook_rt/" not in said
