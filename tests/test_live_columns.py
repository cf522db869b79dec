"""A table's columns, types and key, for any login, with and without the optional SQL (promise 9).

The stack's description is closed to all but secret keys, as a hosted project's is (docs/design/hosted.md).
"""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, cast

import pandas as pd
import pytest

import notebook_rt as nrt
from notebook_rt import errors
from notebook_rt.local import LocalStack
from notebook_rt.model.types import dtype
from notebook_rt.net.credentials import Credentials
from notebook_rt.net.rest import RestClient
from notebook_rt.options import Options
from notebook_rt.runtime import table as table_driver
from notebook_rt.runtime.table import TableDriver
from notebook_rt.sync.events import Page, Query
from notebook_rt.sync.table.mirror import Mirror
from tests.faults.rules import Answer
from tests.proxy import Proxy
from tests.waiting import scaled, until

ALICE = "00000000-0000-4000-8000-00000000000a"


@dataclass(frozen=True)
class Shape:
    """A table: its columns' types, what makes it, and a row of it with another that comes later."""

    types: dict[str, str]
    key: tuple[str, ...]
    columns: str
    row: str = ""
    later: str = ""
    name: str = "columns_of"


_WIDE = ("int4", "int8", "float8", "float4", "numeric", "text", "bool", "timestamptz", "timestamp")
_WIDE += ("date", "jsonb", "json", "bytea", "uuid", "interval", "varchar", "int2", "time", "inet")
_VALUES = {
    "int4": "7",
    "int8": "8",
    "int2": "2",
    "float8": "1.5",
    "float4": "2",
    "numeric": "3",
    "text": "'2024-01-02'",
    "bool": "true",
    "timestamptz": "'2024-01-02T03:04:05Z'",
    "timestamp": "'2024-01-02T03:04:05'",
    "date": "'2024-01-02'",
    "jsonb": "'7'",
    "json": "'{}'",
    "bytea": "'x'",
    "uuid": f"'{ALICE}'",
    "interval": "'1 day'",
    "varchar": "'7'",
    "time": "'01:02'",
    "inet": "'127.0.0.1'",
}
_MANY = {f"{name}_{n}": name for n in range(11) for name in _WIDE}
_MANY_VALUES = ", ".join(_VALUES[name] for name in _MANY.values())

SHAPES = {
    "a text key": Shape(
        {"price": "numeric", "sku": "text", "made": "date"},
        ("sku",),
        "price numeric, sku text primary key, made date",
        "(1.5, 'a', '2024-01-02')",
        "(2, 'b', '2024-01-03')",
    ),
    "a truth and a fraction": Shape(
        {"flag": "bool", "share": "numeric", "note": "text"},
        ("flag", "share"),
        "flag bool, share numeric, note text, primary key (flag, share)",
        "(true, 1.5, 'a'), (false, 1.5, 'b')",
        "(true, 2.5, 'c')",
    ),
    "two columns": Shape(
        {"sold": "float8", "shop": "int4", "day": "date"},
        ("shop", "day"),
        "sold float8, shop int, day date, primary key (day, shop)",
        "(2, 1, '2024-01-02'), (2, 1, '2024-01-03'), (3, 2, '2024-01-03')",
        "(4, 2, '2024-01-02')",
    ),
    "uuid": Shape(
        {"uid": "uuid", "at": "timestamptz"},
        ("uid",),
        "uid uuid primary key default gen_random_uuid(), at timestamptz",
        f"('{ALICE}', '2024-01-02T03:04:05Z')",
        "(gen_random_uuid(), now())",
    ),
    "identity": Shape(
        {"id": "int8", "n": "int4"},
        ("id",),
        "id bigint generated always as identity primary key, n int",
        "(default, 1)",
        "(default, 2)",
    ),
    "a generated column": Shape(
        {"code": "text", "price": "numeric", "twice": "numeric"},
        ("code",),
        "code text primary key, price numeric, twice numeric generated always as (price * 2) stored",
        "('x', 1.5, default)",
        "('y', 2, default)",
    ),
    "an enum": Shape(
        {"name": "varchar", "mood": "columns_mood"},
        ("name",),
        "name varchar(10) primary key, mood columns_mood not null",
        "('x', 'sad')",
        "('y', 'happy')",
    ),
    "domains": Shape(
        {"number": "int4", "label": "text"},
        ("number",),
        "number columns_positive primary key, label columns_label",
        "(1, 'x')",
        "(2, 'y')",
    ),
    "arrays": Shape(
        {"id": "int4", "tags": "_text", "sizes": "_int8", "moods": "_columns_mood"},
        ("id",),
        "id int primary key, tags text[], sizes bigint[], moods columns_mood[]",
        "(1, '{a}', '{1,2}', '{sad}')",
        "(2, '{b,c}', '{3}', '{happy}')",
    ),
    "odd names": Shape(
        {"größe": "int4", "a.b": "text", "order": "int8", 'say "x"': "bool", "and": "text"},
        ("a.b", "order"),
        '"größe" int, "a.b" text, "order" bigint, "say ""x""" bool, "and" text, '
        'primary key ("a.b", "order")',
        "(1, 'x', 1, true, 'y'), (1, 'x', 2, true, 'y'), (1, 'y', 1, true, 'y')",
        "(1, 'z', 2, true, 'z')",
        name='columns "of" Zürich',
    ),
    "empty": Shape({"id": "int8", "name": "text"}, ("id",), "id bigint primary key, name text"),
    "wide": Shape(
        {"k": "int8", **_MANY},
        ("k",),
        "k bigint primary key, " + ", ".join(f"{name} {of}" for name, of in _MANY.items()),
        f"(1, {_MANY_VALUES})",
        f"(2, {_MANY_VALUES})",
    ),
    "only a key": Shape(
        {"left_id": "int4", "right_id": "int4"},
        ("left_id", "right_id"),
        "left_id int, right_id int, primary key (left_id, right_id)",
        "(1, 1), (1, 2), (2, 1)",
        "(2, 2)",
    ),
}

TYPES = """
create type columns_mood as enum ('sad', 'happy');
create domain columns_positive as int not null check (value > 0);
create domain columns_label as text check (length(value) < 9);
"""


@pytest.fixture(scope="module", autouse=True)
def _types(stack: LocalStack) -> Iterator[None]:
    stack.sql(TYPES)
    yield
    stack.sql("drop domain columns_positive, columns_label; drop type columns_mood")


@pytest.fixture(params=["with the SQL", "without"])
def described(request: pytest.FixtureRequest) -> bool:
    """Whether the project has the optional SQL."""
    if request.param == "without":
        request.getfixturevalue("undescribed")
    return request.param != "without"


@pytest.fixture
def make(stack: LocalStack) -> Iterator[Callable[[Shape], str]]:
    made: list[str] = []

    def make(shape: Shape) -> str:
        quoted = '"' + shape.name.replace('"', '""') + '"'
        made.append(quoted)
        stack.sql(f"create table {quoted} ({shape.columns})")
        stack.sql(f"alter publication supabase_realtime add table {quoted}")
        stack.sql(f"grant select on {quoted} to anon, authenticated, service_role")
        if shape.row:
            stack.sql(f"insert into {quoted} values {shape.row}")
        return shape.name

    yield make
    for quoted in made:
        stack.sql(f"drop table {quoted}")


WHO = ("anon", "publishable", "signed in")


@pytest.fixture(params=WHO)
def rt(stack: LocalStack, request: pytest.FixtureRequest) -> Iterator[nrt.Session]:
    key = stack.publishable_key if request.param == "publishable" else stack.anon_key
    token = stack.token("authenticated", ALICE) if request.param == "signed in" else None
    with nrt.connect(stack.url, key, access_token=token) as session:
        yield session


@pytest.fixture
def anon(stack: LocalStack) -> Iterator[nrt.Session]:
    with nrt.connect(stack.url, stack.anon_key) as session:
        yield session


def dtypes_of(df: pd.DataFrame) -> dict[str, Any]:
    flat = df.reset_index()
    return {name: flat[name].dtype for name in flat}


def opened(rt: nrt.Session, table: str, **more: Any) -> nrt.LiveFrame:
    frame = rt.table(table, **more).wait(scaled(20))
    until(lambda: frame.status == "live", what=lambda: repr(frame))
    return frame


def order_of(frame: nrt.LiveFrame, shape: Shape) -> bool:
    return list(frame.df.reset_index().columns) == [
        *shape.key,
        *(name for name in shape.types if name not in shape.key),
    ]


@pytest.mark.parametrize("shape", [pytest.param(one, id=name) for name, one in SHAPES.items()])
def test_columns_dtypes_and_key_are_right(
    stack: LocalStack,
    make: Callable[[Shape], str],
    described: bool,
    rt: nrt.Session,
    shape: Shape,
) -> None:
    frame = opened(rt, make(shape))
    wanted = {name: dtype(pg_type) for name, pg_type in shape.types.items()}
    assert tuple(frame.df.index.names) == shape.key
    if not shape.row and not described:  # nobody tells more than its key
        assert list(frame.df.columns) == []
        return
    assert dtypes_of(frame.df) == wanted
    assert order_of(frame, shape)
    if not shape.later:
        return
    rows, shown = len(frame.df), frame.df
    quoted = '"' + shape.name.replace('"', '""') + '"'
    stack.sql(f"insert into {quoted} values {shape.later}")
    until(lambda: len(frame.df) == rows + 1, what=lambda: repr(frame))
    assert dtypes_of(frame.df) == wanted  # the same over the socket
    assert frame.df.loc[shown.index].equals(shown)


_MIXED = {
    "int4": "(3)",
    "int8": "(3)",
    "text": "('some words')",
    "numeric": "(1.50)",
    "timestamptz": "('2024-01-02T03:04:05Z')",
    "float8": "(1.25)",
    "bool": "(true)",
    "jsonb": """('{"a": 1}')""",
    "uuid": f"('{ALICE}')",
    "varchar": "('')",
}
_OFTEN = {
    "int4": 60,
    "int8": 6,
    "text": 80,
    "numeric": 60,
    "float8": 6,
    "bool": 30,
    "jsonb": 10,
    "varchar": 20,
    "timestamptz": 18,
    "uuid": 10,
}
"""How many columns of a table of 300."""
_ODD = {
    "int2": "(3)",
    "float4": "(1.5)",
    "numeric": "(7)",
    "jsonb": "('7')",
    "_int4": "('{1}')",
    "json": """('{"a": 1}')""",
    "columns_mood": "('sad')",
    "bool": "(false)",
    "float8": "(3)",
    "text": "('12 monkeys')",
    "date": "(null)",
    "int8": "(9007199254740993)",
}


@pytest.mark.parametrize("odd", [0, 1], ids=["plain", "with odd values"])
def test_three_hundred_columns_are_learnt_in_few_requests(
    stack: LocalStack,
    make: Callable[[Shape], str],
    undescribed: None,
    anon: nrt.Session,
    odd: int,
) -> None:
    """Those of one likely type together; what is of another type than its values look like is right, too."""
    values = [(name, _MIXED[name]) for name, count in _OFTEN.items() for _ in range(count)]
    values += [*_ODD.items()] * odd
    random.Random(7).shuffle(values)
    types = {f"c{n}": name for n, (name, _) in enumerate(values)}
    columns = ", ".join(f"{name} {of}" for name, of in types.items())
    row = ", ".join(value for _, value in values)
    table = make(Shape({}, (), f"id bigint primary key, {columns}", f"(1, {row})"))
    frame = opened(anon, table)
    types = {
        "id": "int8",
        **{name: "text" if of == "varchar" else of for name, of in types.items()},
    }
    assert {one.name: one.pg_type for one in frame.schema.columns} == types
    by_themselves = sum(of in ("timestamptz", "uuid") for of in types.values())
    assert anon.metrics["requests"] <= by_themselves + 90 + odd * 3 * len(_ODD)


@pytest.mark.usefixtures("described_by_sql")
def test_the_sql_says_what_may_be_written(
    stack: LocalStack, make: Callable[[Shape], str], anon: nrt.Session
) -> None:
    shape = Shape(
        {},
        ("id",),
        "id bigint generated by default as identity primary key, mood columns_mood not null, "
        "n columns_positive, made date not null default now(), twice int generated always as (1) "
        "stored, note text",
        "(1, 'sad', 1, default, default, null)",
    )
    schema = opened(anon, make(shape)).schema
    assert schema.column("mood").choices == ("sad", "happy")
    nullable = {column.name: column.nullable for column in schema.columns}
    assert nullable == {
        "id": False,
        "mood": False,
        "n": False,
        "made": False,
        "twice": True,
        "note": True,
    }
    assert {column.name for column in schema.columns if column.filled} == {"id", "made"}
    assert {column.name for column in schema.columns if column.generated} == {"twice"}
    assert "the server computes it" in str(schema.column("twice").refusal(3))


@pytest.mark.usefixtures("described_by_sql")
def test_the_sql_tells_a_login_only_of_tables_that_it_has_a_grant_on(
    stack: LocalStack, make: Callable[[Shape], str]
) -> None:
    table = make(SHAPES["a text key"])
    stack.sql(f"revoke all on {table} from anon, authenticated; grant select on {table} to anon")
    stack.sql(f"alter table {table} add unique (made)")
    ask = "select nrt_describe('public', array[%s])"
    try:
        stack.sql("set role authenticated")
        ((said,),) = stack.sql(ask, table)
        assert (said["role"], said["tables"]) == ("authenticated", {})
        stack.sql("set role anon")
        ((said,),) = stack.sql(ask, table)
    finally:
        stack.sql("reset role")
    found = said["tables"][table]
    assert found["grants"] == ["select"]
    assert (found["key"], found["unique"]) == (["sku"], [["made"]])
    assert (found["published"], found["row_security"]) == (True, False)
    assert found["replica_identity"] == "d"


def test_an_empty_table_has_its_columns_as_soon_as_a_row_comes(
    stack: LocalStack, make: Callable[[Shape], str], undescribed: None, anon: nrt.Session
) -> None:
    table = make(SHAPES["empty"])
    frame = opened(anon, table)
    stack.sql(f"insert into {table} values (1, 'x')")
    until(lambda: list(frame.df.columns) == ["name"] and len(frame.df) == 1, what=lambda: frame)
    assert dtypes_of(frame.df) == {"id": dtype("int8"), "name": dtype("text")}


@pytest.mark.parametrize(
    ("shape", "said"),
    [
        (Shape({}, (), "part int primary key, n int"), "no row can be read"),
        (
            Shape({}, (), "a jsonb primary key, b jsonb", "('{}', '{}')"),
            "no columns of a type that",
        ),
        (Shape({}, (), "a int, b text", "(1, 'x'), (1, 'x')"), "tell its rows apart. Name the key"),
        (Shape({}, (), "a int, b text", "(1, 'x')"), "it is not 'a', 'b', ('a', 'b')"),
    ],
)
def test_a_key_that_nobody_tells_is_an_honest_error(
    make: Callable[[Shape], str], undescribed: None, rt: nrt.Session, shape: Shape, said: str
) -> None:
    table = make(shape)
    with pytest.raises(errors.UnknownKeyError) as caught:
        rt.table(table).wait(scaled(10))
    words = str(caught.value)
    assert said in words
    assert f'rt.table("{table}", key=...)' in words
    assert "`notebook-rt doctor --sql`" in words
    assert "alter table" not in words


@pytest.mark.usefixtures("described_by_sql")
def test_a_table_without_a_key_is_told_so_with_its_unique_columns(
    make: Callable[[Shape], str], anon: nrt.Session
) -> None:
    table = make(Shape({}, (), "a int, b text unique, c int, d int, unique (c, d)"))
    with pytest.raises(errors.NoPrimaryKeyError) as caught:
        anon.table(table).wait(scaled(10))
    assert f"rt.table(\"{table}\", key='b' or key=('c', 'd'))" in str(caught.value)
    assert "alter table" not in str(caught.value)


def test_a_key_that_is_named_is_believed_unless_rows_contradict_it(
    make: Callable[[Shape], str], described: bool, anon: nrt.Session
) -> None:
    table = make(Shape({}, (), "a int, b text, c text", "(1, 'x', 'p'), (2, 'x', null)"))
    assert opened(anon, table, key="a").df.index.tolist() == [1, 2]
    for key in ("b", "c"):
        with pytest.raises(errors.DuplicateKeyError, match=f"the same {key}, or a null there"):
            anon.table(table, key=key).wait(scaled(10))


def test_a_key_that_is_named_and_gets_a_duplicate_later_is_refused_with_the_rows(
    stack: LocalStack, make: Callable[[Shape], str], anon: nrt.Session
) -> None:
    table = make(Shape({}, (), "a int, b text", "(1, 'x'), (2, 'x')"))
    frame = opened(anon, table, key="a")
    stack.sql(f"insert into {table} values (2, 'later')")
    words = r"the same a, or a null there \({'a': 2, 'b': 'x'} and {'a': 2, 'b': 'later'}\)"
    with pytest.raises(errors.DuplicateKeyError, match=words):
        frame.verify(scaled(10))
    assert frame.status == "error"
    assert "the same a" in frame.reason


def test_with_a_projection_the_key_is_found_among_the_other_columns(
    make: Callable[[Shape], str], described: bool, anon: nrt.Session
) -> None:
    frame = opened(anon, make(SHAPES["a text key"]), columns=["price"])
    assert dtypes_of(frame.df) == {"sku": dtype("text"), "price": dtype("numeric")}


def test_whoever_may_read_some_columns_only_is_shown_those(
    stack: LocalStack, make: Callable[[Shape], str], undescribed: None, anon: nrt.Session
) -> None:
    table = make(SHAPES["a text key"])
    stack.sql(f"revoke all on {table} from anon; grant select (sku, price) on {table} to anon")
    frame = opened(anon, table, columns=["sku", "price"])
    assert dtypes_of(frame.df) == {"sku": dtype("text"), "price": dtype("numeric")}


def test_whoever_may_read_some_columns_only_is_told_of_one(
    stack: LocalStack, make: Callable[[Shape], str], undescribed: None, anon: nrt.Session
) -> None:
    """The advice is not to grant all of it; and which column is withheld is said by name."""
    table = make(SHAPES["a text key"])
    stack.sql(f"revoke all on {table} from anon")
    with pytest.raises(errors.PermissionDeniedError) as none:
        anon.table(table).wait(scaled(30))
    assert not isinstance(none.value, errors.SomeColumnsError)
    stack.sql(f"grant select (sku) on {table} to anon")
    with pytest.raises(errors.SomeColumnsError, match=r'sku among them.*columns="sku,\.\.\."'):
        anon.table(table).wait(scaled(30))
    with pytest.raises(errors.SomeColumnsError, match=r"may not read price of .*leave it out"):
        anon.table(table, columns=["sku", "price"]).wait(scaled(30))


# The proof of a key ----------------------------------------------------------------------------

GUARD = """
create table columns_log (what text);
create sequence columns_touched;
create function columns_note() returns trigger language plpgsql security definer as $$ begin
    insert into columns_log values (tg_op); perform nextval('columns_touched'); return new;
end $$;
grant usage on sequence columns_touched to anon, authenticated, service_role;
"""


@pytest.fixture
def guard(stack: LocalStack) -> Iterator[Callable[[str], None]]:
    """Puts triggers on a table that tell of every statement, even of one that is rolled back."""
    stack.sql(GUARD)

    def watch(table: str) -> None:
        quoted = '"' + table.replace('"', '""') + '"'
        for number, (when, each) in enumerate(
            itertools.product(("before", "after"), ("row", "statement"))
        ):
            stack.sql(
                f"create trigger watch_{number} {when} insert or update or delete on {quoted} "
                f"for each {each} execute function columns_note()"
            )

    yield watch
    stack.sql("drop function columns_note cascade; drop sequence columns_touched")
    stack.sql("drop table columns_log")


@pytest.mark.parametrize("rights", ["none", "select", "all", "all, by a policy", "all, no policy"])
@pytest.mark.parametrize("shape", [pytest.param(one, id=name) for name, one in SHAPES.items()])
def test_proving_a_key_writes_nothing(
    stack: LocalStack,
    make: Callable[[Shape], str],
    guard: Callable[[str], None],
    shape: Shape,
    rights: str,
) -> None:
    table = make(shape)
    quoted = '"' + table.replace('"', '""') + '"'
    stack.sql(f"revoke all on {quoted} from anon, authenticated, service_role")
    if rights != "none":
        stack.sql(f"grant {rights.split(',')[0]} on {quoted} to anon, authenticated, service_role")
    if "policy" in rights:
        stack.sql(f"alter table {quoted} enable row level security")
    if "by a policy" in rights:
        stack.sql(f"create policy everybody on {quoted} using (true) with check (true)")
    guard(table)
    before = stack.sql(f"select to_jsonb(t), xmin::text from {quoted} t order by 1")
    others = [(name,) for name in list(shape.types)[:4] if (name,) != shape.key]
    others += [shape.key[:1]] if len(shape.key) > 1 else [(*shape.key, list(shape.types)[-1])]
    keys = {shape.key: True, **dict.fromkeys(others, False)}

    async def prove() -> None:
        for key, token in (
            (stack.anon_key, None),
            (stack.publishable_key, None),
            (stack.anon_key, stack.token("authenticated", ALICE)),
            (stack.service_key, None),
        ):
            client = RestClient(stack.url, Credentials(key, token), Options())
            for columns, truth in keys.items():
                assert await client.proves_key("public", table, columns) is truth, columns
            await client.aclose()

    asyncio.run(prove())
    assert stack.sql(f"select to_jsonb(t), xmin::text from {quoted} t order by 1") == before
    assert stack.sql("select count(*) from columns_log") == [(0,)]
    assert stack.sql("select is_called from columns_touched") == [(False,)]


@pytest.mark.parametrize("status", [403, 404, 405])
def test_where_a_gateway_lets_no_proof_through_only_id_is_believed(
    make: Callable[[Shape], str], undescribed: None, stack: LocalStack, proxy: Proxy, status: int
) -> None:
    proxy.rules = (Answer(method="PUT", status=status),)
    with nrt.connect(proxy.url, stack.anon_key) as rt:
        assert opened(rt, make(SHAPES["arrays"])).df.index.name == "id"
        other = make(replace(SHAPES["a text key"], name="columns_other"))
        with pytest.raises(errors.UnknownKeyError, match="the server does not say"):
            rt.table(other).wait(scaled(10))
    assert proxy.counts["PUT"] == 3


def test_an_empty_table_has_the_columns_that_merge_names(
    stack: LocalStack, make: Callable[[Shape], str], undescribed: None
) -> None:
    table = make(Shape({}, (), "sku text primary key, stock int, tags jsonb", ""))
    with nrt.connect(stack.url, stack.anon_key) as rt:
        merge: Any = {"stock": "delta", "tags": "union"}
        frame = rt.table(table, key="sku", merge=merge).wait(scaled(10))
        assert frame.df.dtypes.to_dict() == {"stock": "int64", "tags": object}
        slip = rt.table(table, key="sku", merge={"stok": "delta"})
        with pytest.raises(errors.MissingColumnError, match='no column "stok"'):
            slip.wait(scaled(10))


def test_finding_a_key_costs_a_bounded_number_of_requests(
    stack: LocalStack, make: Callable[[Shape], str], undescribed: None
) -> None:
    columns = ", ".join(f"c{n} int" for n in range(40))
    values = ", ".join(map(str, range(40)))
    table = make(Shape({}, (), columns, f"({values})"))
    with nrt.connect(stack.url, stack.anon_key) as rt:
        with pytest.raises(errors.UnknownKeyError):
            rt.table(table).wait(scaled(10))
        proofs, types = 9 + 24, 40
        assert rt.metrics["requests"] <= proofs + types + 4


def test_columns_that_come_while_an_empty_table_is_read_are_shown(
    stack: LocalStack,
    make: Callable[[Shape], str],
    undescribed: None,
    anon: nrt.Session,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The next load is begun before what the last one brought is shown."""
    read, released = RestClient.fetch, asyncio.Event()
    held: list[str] = []

    async def hold(self: RestClient, schema: str, table: str, query: Query, **more: Any) -> Page:
        page = await read(self, schema, table, query, **more)
        if "order" in dict(query.params):
            held.append(table)
            await released.wait()
        return page

    monkeypatch.setattr(RestClient, "fetch", hold)
    table = make(SHAPES["empty"])
    frame = anon.table(table)
    until(lambda: held)
    stack.sql(f"insert into {table} values (1, 'x')")
    mirror = cast(TableDriver, frame._feed).machine
    until(lambda: isinstance(mirror, Mirror) and mirror._passes.kept)
    cast(TableDriver, frame._feed).thread.call(released.set)
    until(lambda: list(frame.df.columns) == ["name"] and len(frame.df) == 1, what=lambda: frame)
    assert not [one for one in caplog.records if one.levelname == "ERROR"]


def test_a_views_types_are_the_servers_whoever_describes_it(
    stack: LocalStack, make: Callable[[Shape], str], described: bool, anon: nrt.Session
) -> None:
    types = {"n": "int8", "price": "numeric", "x": "float8", "day": "text", "at": "timestamptz"}
    columns = ", ".join(f"{name} {pg_type}" for name, pg_type in types.items())
    table = make(Shape({}, ("n",), f"{columns}, primary key (n)", "(1, 2, 3, '2024-01-02', now())"))
    stack.sql(
        f"create view {table}_seen as select * from {table}; grant select on {table}_seen to anon"
    )
    try:
        query = anon.query(f"{table}_seen", depends_on=table, key="n").wait(scaled(10))
        wanted = {name: dtype(pg_type) for name, pg_type in types.items()}
        assert dtypes_of(query.df) == wanted
        stack.sql(f"insert into {table} values (2, 2.5, 3.5, 'x', now())")
        until(lambda: len(query.df) == 2)
        assert dtypes_of(query.df) == wanted
    finally:
        stack.sql(f"drop view {table}_seen")


def test_the_first_row_of_an_empty_table_is_inserted_and_edited_at_once(
    stack: LocalStack, make: Callable[[Shape], str], undescribed: None, anon: nrt.Session
) -> None:
    table = make(Shape({}, (), "id int primary key, name text, made timestamptz, tags text[]"))
    stack.sql(f"grant select, insert, update, delete on {table} to anon")
    frame = opened(anon, table)
    assert list(frame.df.columns) == []
    with pytest.raises(errors.InvalidEditError, match="no column 'nam'; there are id"):
        frame.insert(id=1, nam="slip")
    assert frame.insert(id=1, name="x", made="2024-01-02T03:04:05Z") == 1
    assert frame.df["name"].to_dict() == {1: "x"}
    frame.edit(1, name="y", tags=["a"])  # of a column that no insert has named
    with pytest.raises(errors.InvalidEditError, match="made"):
        frame.insert(id=2, made="no time")
    assert anon.queue.flush(timeout=scaled(10)) == 0
    assert stack.sql(f"select id, name, tags from {table}") == [(1, "y", ["a"])]
    until(lambda: frame.df.columns.tolist() == ["name", "made", "tags"], what=lambda: frame.df)
    assert dtypes_of(frame.df)["made"] == dtype("timestamptz")


def test_a_cell_of_a_table_that_was_empty_is_read_and_set_by_a_column_it_has_not_shown(
    stack: LocalStack, make: Callable[[Shape], str], undescribed: None, anon: nrt.Session
) -> None:
    table = make(Shape({}, (), "id int primary key, name text, size int"))
    stack.sql(f"grant select, insert, update, delete on {table} to anon")
    frame = opened(anon, table)
    anon.queue.pause()
    frame.insert(id=1)
    assert frame.at[1, "size"] is None
    frame.at[1, "name"] = "x"
    with pytest.raises(KeyError, match="nam"):
        frame.at[1, "nam"]
    with pytest.raises(errors.InvalidEditError, match="nam"):
        frame.at[1, "nam"] = "slip"
    anon.queue.resume()
    assert anon.queue.flush(timeout=scaled(10)) == 0
    assert stack.sql(f"select id, name, size from {table}") == [(1, "x", None)]


def test_a_grid_of_an_empty_table_takes_columns_that_it_has_not_shown(
    stack: LocalStack, make: Callable[[Shape], str], undescribed: None, anon: nrt.Session
) -> None:
    frame = opened(anon, make(Shape({}, (), "id int primary key, name text, size int, note text")))
    assert frame.schema is not None
    assert frame.schema.names == ("id",)
    frame.grid(columns="name, id", formats={"size": ",d"}, editable=["note"])
    assert set(frame.schema.names) == {"id", "name", "size", "note"}
    with pytest.raises(ValueError, match='no column "nam"; there are id'):
        frame.grid(columns=["nam"])


def test_many_rows_of_a_table_that_was_empty_are_edited_by_columns_it_has_not_shown(
    stack: LocalStack, make: Callable[[Shape], str], undescribed: None, anon: nrt.Session
) -> None:
    table = make(SHAPES["empty"])
    stack.sql(f"grant select, insert, update, delete on {table} to anon")
    frame = opened(anon, table)
    anon.queue.pause()
    with frame.batch():
        frame.insert(id=1)
        frame.insert(id=2)
    assert frame.edit_many(pd.DataFrame({"id": [1, 2], "name": ["x", "y"]})).changed == 2
    anon.queue.resume()
    assert anon.queue.flush(timeout=scaled(10)) == 0
    assert stack.sql(f"select name from {table} order by id") == [("x",), ("y",)]


def test_a_column_of_an_empty_table_that_cannot_be_asked_for_is_an_honest_error(
    stack: LocalStack,
    make: Callable[[Shape], str],
    undescribed: None,
    proxy: Proxy,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(table_driver, "KNOW_SECONDS", 0.1)
    table = make(SHAPES["empty"])
    with nrt.connect(proxy.url, stack.anon_key) as rt:
        frame = opened(rt, table)
        proxy.rules = (Answer(method="GET", status=503),)
        with pytest.raises(errors.UnreachableError, match=f'columns of "{table}"'):
            frame.insert(id=1, name="x")
        assert len(frame.pending) == 0
