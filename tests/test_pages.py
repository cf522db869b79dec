"""The site's pages: every Python block runs unchanged, and does what its page describes.

The blocks of a page run in order, in one namespace, against the shared stack. What a page supposes to
be there (tables, a file, a user, Colab's secrets) is made here and is not shown on it.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import notebook_rt as nrt
from notebook_rt.local import LocalStack
from notebook_rt.runtime.optional_sql import broadcast_remove_sql, broadcast_sql
from tests.ports import free_port
from tests.waiting import until

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = {
    page.relative_to(DOCS).with_suffix("").as_posix(): page.read_text()
    for page in sorted(DOCS.rglob("*.md"))
    if page.parent.name != "design"
}
BLOCK = re.compile(r"^```python\n(.*?)^```", re.M | re.S)
WITH_CODE = {name: blocks for name, text in PAGES.items() if (blocks := BLOCK.findall(text))}
TABLES = """
drop table if exists prices, holdings, goods;
create table prices (symbol text primary key, price float8);
create table holdings (id int primary key, owner text, symbol text, pieces int);
create table goods (sku text primary key, name text, price float8);
insert into prices values ('AAPL', 231), ('MSFT', 417), ('KO', 63);
insert into holdings values (1, 'ada', 'AAPL', 10), (2, 'ada', 'KO', 100), (3, 'bob', 'KO', 1);
insert into goods values ('a-1', 'nail', 1), ('a-2', 'bolt', 2);
grant select, insert, update, delete on prices, holdings, goods to anon, authenticated, service_role;
alter publication supabase_realtime add table prices, holdings, goods;
"""
PASSWORD = "correct horse battery"


@pytest.fixture(scope="module")
def project(stack: LocalStack) -> Iterator[LocalStack]:
    """The project that the pages talk of."""
    stack.sql(TABLES)
    with nrt.connect(stack.url, stack.anon_key) as rt:
        rt.sign_up("ada@example.com", PASSWORD)
    yield stack
    stack.sql("drop table prices, holdings, goods")
    stack.sql("delete from auth.users where email = 'ada@example.com'")


@pytest.fixture
def reader(
    project: LocalStack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[str], dict[str, Any]]]:
    """Runs a page as its reader does; what it has opened is closed afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    for name in ("SUPABASE", "LIVE", "STAGING"):
        monkeypatch.setenv(f"{name}_URL", project.url)
        monkeypatch.setenv(f"{name}_KEY", project.anon_key)
    spaces: list[dict[str, Any]] = []

    def run(name: str) -> dict[str, Any]:
        space: dict[str, Any] = {"__name__": "__main__"}
        spaces.append(space)
        for block in WITH_CODE[name]:
            exec(compile(block, f"docs/{name}.md", "exec"), space)
        return space

    yield run
    for space in spaces:
        for value in space.values():
            if isinstance(value, nrt.Session):
                value.close()


Reader = Callable[[str], dict[str, Any]]


def set_price(project: LocalStack, prices: nrt.LiveTable, symbol: str, price: float) -> None:
    """Changed by somebody else, and seen: what comes too soon after the first data may come as one."""
    project.sql("update prices set price = %s where symbol = %s", price, symbol)
    until(lambda: prices.df.loc[symbol, "price"] == price)


def test_the_tutorial(reader: Reader, capsys: pytest.CaptureFixture[str]) -> None:
    reader("tutorial")
    said = capsys.readouterr().out
    assert "checked" in said
    assert "rows compared" in said


def test_csv(reader: Reader, project: LocalStack, capsys: pytest.CaptureFixture[str]) -> None:
    Path("goods.csv").write_text("sku,name,price\na-1,nail,1.5\na-2,bolt,2\na-3,nut,0.5\n")
    reader("howto/csv")
    assert 'upsert of 3 rows, table "goods": 2 written, 1 unchanged' in capsys.readouterr().out
    rows = project.sql("select sku, name, price from goods order by sku")
    assert rows == [("a-1", "nail", 1.5), ("a-2", "bolt", 2.0), ("a-3", "nut", 0.5)]


def test_alert(reader: Reader, project: LocalStack, capsys: pytest.CaptureFixture[str]) -> None:
    prices = reader("howto/alert")["prices"]
    for price in (240, 251, 260, 231):
        set_price(project, prices, "AAPL", price)
    said: list[str] = []
    until(lambda: said.append(capsys.readouterr().out) or "AAPL is at" in "".join(said))
    project.sql("insert into prices values ('NVDA', 300)")
    until(lambda: said.append(capsys.readouterr().out) or "NVDA is at 300" in "".join(said))
    project.sql("delete from prices where symbol = 'NVDA'")
    assert re.findall(r"AAPL is at (\d+)", "".join(said)) == ["251"]


def test_log(reader: Reader, project: LocalStack) -> None:
    space = reader("howto/log")
    for price in (64, 63):
        set_price(project, space["prices"], "KO", price)
    until(lambda: Path("prices.jsonl").read_text().count("\n") >= 2)
    space["rt"].close()
    space["file"].close()
    lines = [json.loads(line) for line in Path("prices.jsonl").read_text().splitlines()]
    assert [line["new"]["price"] for line in lines] == [64, 63]
    assert {"commit", "cause", "kind", "key", "old"} <= set(lines[0])


@pytest.mark.filterwarnings("ignore::notebook_rt.errors.HistoryGapWarning")
def test_time_travel(reader: Reader) -> None:
    space = reader("howto/time-travel")
    assert list(space["before"].index) == list(space["prices"].df.index)
    assert space["cell"]["kind"].tolist() == ["snapshot"]
    assert space["totals"].df["highest"].to_dict() == {"AAPL": 231, "KO": 63, "MSFT": 417}
    written = pd.read_parquet("prices-past")
    assert set(written["_change_type"]) == {"snapshot"}


def test_joins(reader: Reader, project: LocalStack) -> None:
    worth = reader("howto/joins")["worth"]
    assert worth.df.to_dict() == {"ada": 2310 + 6300, "bob": 63}
    project.sql("update holdings set pieces = 2 where owner = 'bob'")
    until(lambda: worth.df["bob"] == 126)


def test_live_views(
    reader: Reader, project: LocalStack, capsys: pytest.CaptureFixture[str]
) -> None:
    space = reader("howto/live-views")
    wanted = project.sql(
        "select owner, sum(pieces * price) from holdings join prices using (symbol) group by owner"
    )
    assert space["by_owner"].df["value"].to_dict() == dict(wanted)
    assert space["richest"].df.index.tolist() == ["ada"]
    project.sql("update holdings set pieces = 1000 where owner = 'bob'")
    said: list[str] = []
    until(lambda: said.append(capsys.readouterr().out) or "'owner': 'bob'" in "".join(said))


def test_export(reader: Reader, capsys: pytest.CaptureFixture[str]) -> None:
    space = reader("howto/export")
    assert set(pd.read_csv("prices.csv")["symbol"]) == {"AAPL", "MSFT", "KO"}
    assert set(pd.read_parquet("prices.parquet").index) == {"AAPL", "MSFT", "KO"}
    assert set(pd.read_parquet("prices-with-json.parquet")["symbol"]) == {"AAPL", "MSFT", "KO"}
    assert space["frame"].height == space["arrow"].num_rows == 3
    assert "MSFT" in capsys.readouterr().out


def test_broadcast_source(reader: Reader, project: LocalStack) -> None:
    project.sql(broadcast_sql("public", ["prices"]))
    try:
        prices = reader("howto/broadcast-source")["prices"]
        until(lambda: repr(prices) == "<LiveTable prices live by broadcast, 3 rows>")
        set_price(project, prices, "KO", 64)
    finally:
        project.sql("update prices set price = 63 where symbol = 'KO'")
        project.sql(broadcast_remove_sql("public", ["prices"]))


def test_own_rows(reader: Reader, project: LocalStack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("getpass.getpass", lambda _: PASSWORD)
    project.sql(
        "create table todos (id bigint primary key, user_id uuid, what text);"
        "insert into todos select i, id, 'x' from auth.users, generate_series(1, 3) i"
        " where email = 'ada@example.com';"
        "insert into todos values (4, gen_random_uuid(), 'somebody else');"
        "grant select on todos to authenticated"
    )
    project.sql(broadcast_sql("public", ["todos"], scope="user_id"))
    try:
        todos = reader("howto/own-rows")["todos"]
        until(lambda: repr(todos) == "<LiveTable todos live by broadcast per user_id, 3 rows>")
    finally:
        project.sql(broadcast_remove_sql("public", ["todos"]))
        project.sql("drop table todos")


def test_sign_in(reader: Reader, project: LocalStack, monkeypatch: pytest.MonkeyPatch) -> None:
    def code(_: str) -> str:
        ((found,),) = project.sql("select code from auth.local_mails order by id desc limit 1")
        return str(found)

    monkeypatch.setattr("getpass.getpass", lambda _: PASSWORD)
    monkeypatch.setattr("builtins.input", code)
    assert reader("howto/sign-in")["rt"].user["email"] == "ada@example.com"


def test_coming_from_supabase_py(reader: Reader, project: LocalStack) -> None:
    space = reader("howto/coming-from-supabase-py")
    rows = dict(project.sql("select symbol, price from prices"))
    project.sql("update prices set price = price / 2 where symbol in ('AAPL', 'MSFT')")
    assert rows == {"AAPL": 2 * 231, "MSFT": 2 * 417, "KO": 63}
    until(lambda: [one["price"] for one in space["heard"]] == [63])
    until(lambda: list(space["floor"].presence.df.get("name", ())) == ["ada"])


def test_two_projects(reader: Reader) -> None:
    assert reader("howto/two-projects")["differing"].df.empty


def test_a_script_under_cron(reader: Reader) -> None:
    reader("howto/cron")
    assert len(pd.read_csv("prices.csv")) == 3


def test_asyncio(reader: Reader, project: LocalStack) -> None:
    space = reader("howto/asyncio")

    async def use() -> None:
        async with nrt.connect() as rt:
            prices = await rt.table("prices").ready()
            await space["reprice"](prices, "MSFT")
            await asyncio.to_thread(rt.queue.flush, 10)

    asyncio.run(use())
    assert project.sql("select price from prices where symbol = 'MSFT'") == [(417 * 1.01,)]
    project.sql("update prices set price = 417 where symbol = 'MSFT'")


def test_colab(reader: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    """Colab is nowhere else: its module is what its secrets say, and what anywidget asks of it."""
    colab, output = types.ModuleType("google.colab"), types.ModuleType("google.colab.output")
    colab.userdata = types.SimpleNamespace(get=os.environ.__getitem__)  # type: ignore[attr-defined]  # made here
    output._widgets = types.SimpleNamespace(_installed_url="colab:manager")  # type: ignore[attr-defined]
    allowed: list[str] = []
    output.enable_custom_widget_manager = lambda: allowed.append("all")  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "google.colab", colab)
    monkeypatch.setitem(sys.modules, "google.colab.output", output)
    prices = reader("howto/colab")["prices"]
    assert len(prices.df) == 3
    data, metadata = prices.grid()._repr_mimebundle_()
    (mime,) = metadata
    assert mime in data
    assert metadata[mime] == {"colab": {"custom_widget_manager": {"url": "colab:manager"}}}
    assert allowed == ["all"]


@pytest.mark.parametrize("page", ["howto/marimo", "howto/voila"])
def test_a_page_of_widgets(page: str, reader: Reader) -> None:
    """The widgets themselves are driven in a browser by ``test_browser_howtos.py``."""
    assert len(reader(page)["prices"].df) == 3


@pytest.mark.nightly
async def test_panel(reader: Reader, project: LocalStack) -> None:
    """On Panel's own server, in the reader's folder; what a page is then sent is Panel's affair.

    ``./do nightly`` installs it beside the others: its extension of JupyterLab breaks every Voila page.
    """
    from bokeh.client import pull_session
    from panel.io.server import get_server

    (block,) = WITH_CODE["howto/panel"]
    await asyncio.to_thread(Path("app.py").write_text, block)
    port = free_port()
    server = get_server({"app": "app.py"}, port=port, start=True)
    try:
        url = f"http://127.0.0.1:{port}/app"
        visitor = await asyncio.to_thread(pull_session, url=url)
        (session,) = server.get_sessions("/app")
        texts = [model for model in session.document.models if hasattr(model, "text")]
        (table,) = [model for model in texts if "MSFT" in model.text]
        project.sql("insert into prices values ('TSLA', 249)")
        await asyncio.to_thread(until, lambda: "TSLA" in table.text)
        await asyncio.to_thread(visitor.close)
    finally:
        server.stop()
        project.sql("delete from prices where symbol = 'TSLA'")


def test_local(reader: Reader) -> None:
    stack: LocalStack = reader("reference/local")["stack"]
    assert stack.options.realtime.over_rate == "closed"
    stack.stop()


def test_every_page_with_code_has_a_test() -> None:
    run = set(re.findall(r'reader\("([\w/-]+)"\)', Path(__file__).read_text()))
    run |= {"howto/write-a-dataframe"}  # with the README: tests/test_readme.py
    assert {*run, "howto/marimo", "howto/voila", "howto/panel"} == set(WITH_CODE)


def test_every_howto_is_short() -> None:
    for name, text in PAGES.items():
        if name.startswith("howto/"):
            assert len(text.splitlines()) <= 70, name


def test_every_public_name_is_in_the_reference() -> None:
    reference = "\n".join(text for name, text in PAGES.items() if name.startswith("reference/"))
    named = set(re.findall(r"auto(?:class|function|module):: (?:\w+\.)*(\w+)", reference))
    assert {*nrt.__all__} - {*named, "local"} - {*dir(nrt.errors)} == set()


def test_the_symptoms_are_errors_and_states_that_there_are() -> None:
    from typing import get_args

    from notebook_rt.sync.connection.health import HealthStatus

    heads = "\n".join(re.findall(r"^## (.*)", PAGES["symptoms"], re.M))
    assert set(re.findall(r"`(\w+Error)`", heads)) <= set(dir(nrt.errors))
    assert set(re.findall(r"Health is `(\w+)`", heads)) <= set(get_args(HealthStatus))


@pytest.mark.slow
def test_the_site_is_built_without_a_warning(tmp_path: Path) -> None:
    built = subprocess.run(
        [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", DOCS, tmp_path / "site"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stderr
    assert (
        'id="notebook_rt.Session.table"'
        in (tmp_path / "site" / "reference" / "session.html").read_text()
    )
