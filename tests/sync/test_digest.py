"""Promise 4: a whole table compared in one request, with PostgreSQL's own hash."""

from __future__ import annotations

import json
import random
import uuid
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from notebook_rt.errors import RefusedError, StatementTimeoutError
from notebook_rt.local import LocalStack
from notebook_rt.model.filters import parse
from notebook_rt.model.rows import Upsert
from notebook_rt.model.spec import TableSpec
from notebook_rt.model.types import Column, Schema
from notebook_rt.runtime.optional_sql import AUDIT_SQL
from notebook_rt.sync.events import Page, Query
from notebook_rt.sync.table.comparison import Comparison
from notebook_rt.sync.table.digest import (
    BUCKETS,
    DIGEST_ROWS,
    Digest,
    Hasher,
    Hashes,
    hash_int8,
    hasher,
)
from notebook_rt.sync.table.flows import Ahead, Pool, ReadRefusedError
from notebook_rt.sync.table.horizon import Horizon, Read
from notebook_rt.sync.table.queries import Reads
from notebook_rt.sync.table.reading import Paging, by_digest
from notebook_rt.sync.table.replica import EDGE_SAMPLE, Replica
from notebook_rt.sync.table.versions import Versions
from tests.sync.model import DictRows


@pytest.fixture(scope="module")
def table(stack: LocalStack) -> LocalStack:
    stack.sql(AUDIT_SQL.read_text())
    stack.sql("drop table if exists digest_t; create table digest_t (id bigint primary key, n int)")
    stack.sql("grant select on digest_t to anon, authenticated")
    for start in (1, 1000, -50):  # three transactions: three versions
        stack.sql(f"insert into digest_t select g, g % 7 from generate_series({start}, {start + 300}) g"
                  " on conflict do nothing")  # fmt: skip
    return stack


def test_the_hash_is_postgresqls(stack: LocalStack) -> None:
    chosen = random.Random(7)
    edges = [0, 1, -1, 2**31, -(2**31), 2**63 - 1, -(2**63), 2**32]
    values = edges + [chosen.randrange(-(2**63), 2**63) for _ in range(300)]
    seeds = [0, 1, *[chosen.randrange(0, 2**32) for _ in range(len(values) - 2)]]
    pairs = ",".join(f"('{v}'::bigint, '{s}'::bigint)" for v, s in zip(values, seeds, strict=True))
    theirs = stack.sql(f"select hashint8extended(a, b) from (values {pairs}) t(a, b)")
    ours = hash_int8(np.array(values, np.int64), np.array(seeds, np.int64)).view(np.int64)
    assert ours.tolist() == [row[0] for row in theirs]


@pytest.mark.parametrize(
    ("pg_type", "function"), [("uuid", "uuid_hash_extended"), ("text", "hashtextextended")]
)
def test_keys_are_hashed_as_their_type_is(stack: LocalStack, pg_type: str, function: str) -> None:
    chosen = random.Random(pg_type)
    keys = [str(uuid.UUID(int=chosen.getrandbits(128))) for _ in range(50)]
    if pg_type == "text":
        keys = ["", "ä", "日本", "🙂" * 9, "O'Hara", *("x" * n for n in range(1, 40))]
        keys += [str(n) * n for n in range(40)]
    seeds = [0, *(chosen.randrange(0, 2**32) for _ in keys[1:])]
    theirs = stack.sql(
        f"select {function}(a, b) from unnest(%s::{pg_type}[], %s::bigint[]) t(a, b)", keys, seeds
    )
    ours = hasher(pg_type, keys)(np.array(seeds, np.int64)).view(np.int64)
    assert ours.tolist() == [row[0] for row in theirs]


WHERE = {
    None: "true",
    "n=eq.3": "n = 3",
    "or=(n.eq.3,and(id.gte.5,n.not.in.(1,3)))": "n = 3 or (id >= 5 and n not in (1, 3))",
}


def loaded(stack: LocalStack, filter_text: str | None, name: str = "digest_t") -> Replica:
    types = stack.sql(
        "select attname, typname from pg_attribute a join pg_type t on t.oid = atttypid "
        "where attrelid = %s::regclass and attnum > 0 order by attnum",
        name,
    )
    schema = Schema(tuple(Column(*one) for one in types), (types[0][0],))
    replica = Replica(TableSpec(name, filter=parse(filter_text)), schema, schema, Horizon())
    replica.rows = DictRows(schema)
    where = WHERE[filter_text]
    for key, n, xmin in stack.sql(f"select id, n, xmin::text from {name} where {where}"):
        typed = schema.key_of(schema.decode({"id": key if isinstance(key, int) else str(key)}))
        replica.rows.apply([Upsert(typed, {"id": typed, "n": n})])
        replica.versions.note(typed, xmin)
    return replica


def compare(
    stack: LocalStack, replica: Replica, rows: int = DIGEST_ROWS, *, likely: bool = False
) -> tuple[set[object], set[object]]:
    """The keys that the digest wants read, and those that it says are gone."""
    unknown: list[object] = []
    gone: list[object] = []
    digest = Digest(replica, rows, likely=likely)
    flow = digest.steps(unknown.append, lambda keys, read: gone.extend(keys))
    answer: list[Read] | None = None
    while True:
        try:
            asked = next(flow) if answer is None else flow.send(answer)
        except StopIteration:
            return set(unknown), set(gone)
        if isinstance(asked, Ahead):
            asked.work()
            query = asked.query
        else:
            (query,) = asked
        answer = [told(stack, query)]


class Rows(dict[Any, int]):
    """Keys with their ``xmin``, in versions as a replica has them."""

    def versions(self) -> Versions:
        made = Versions()
        for key, xmin in self.items():
            made.note(key, str(xmin))
        return made


xmins = st.integers(3, 2**32 - 1)


@given(
    st.one_of(
        st.lists(st.dictionaries(st.integers(-5, 30), xmins, max_size=9), min_size=2, max_size=4),
        st.lists(
            st.dictionaries(st.text("aü", max_size=3), xmins, max_size=9), min_size=2, max_size=4
        ),
    ),
    st.sampled_from([4, 1024]),
)
def test_hashes_that_were_kept_are_those_of_the_rows_of_now(
    states: list[dict[Any, int]], number: int
) -> None:
    pg_type = "text" if any(isinstance(key, str) for one in states for key in one) else "int8"
    kept = Hashes()
    for state in states:
        versions = Rows(state).versions()
        keys, buckets, digests = kept.of(versions, pg_type, number)
        anew = Hashes().of(Rows(state).versions(), pg_type, number)
        assert list(keys) == list(anew[0])
        assert buckets.tolist() == anew[1].tolist()
        assert digests.tolist() == anew[2].tolist()


def test_a_comparison_that_begins_again_hashes_what_has_changed_since_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A second confirmation comes while the server hashes a kept table."""
    hashed: list[int] = []

    def counted(pg_type: str, keys: Any) -> Hasher:
        hashed.append(len(keys))
        return hasher(pg_type, keys)

    monkeypatch.setattr("notebook_rt.sync.table.digest.hasher", counted)
    schema = Schema((Column("id", "int8", nullable=False), Column("n", "int8")), ("id",))
    replica = Replica(TableSpec("t"), schema, schema, Horizon())
    replica.rows = DictRows(schema)
    replica.rows.apply([Upsert(key, {"id": key, "n": 0}) for key in range(5000)])
    for key in range(5000):
        replica.versions.note(key, "700")
    reads, paging = Reads(replica.spec, schema, 1000), Paging(1000, digest=True)
    for changed in ((), (), (7, 8)):
        for key in changed:
            replica.versions.note(key, "701")
        flow = by_digest(replica, reads, paging, Comparison(replica), likely=True)
        asked = next(flow)
        assert isinstance(asked, Ahead)
        asked.work()
        if not changed:
            flow.close()  # stopped
    assert hashed == [5000, 2]
    _, buckets, digests = Hashes().of(replica.versions, "int8", BUCKETS)
    there = np.unique(buckets)
    answer = {
        "buckets": there.tolist(),
        "rows": np.bincount(buckets)[there].tolist(),
        "digests": [str(one) for one in digests.view(np.int64)[there]],
    }
    with pytest.raises(StopIteration) as ended:
        flow.send([Read(Page((), None, 0.0, answer), 0, 0.0)])
    assert ended.value.value is True
    assert paging.hashes._of is None, "what is done keeps nothing"


def told(stack: LocalStack, query: Query) -> Read:
    """What the server's function answers."""
    a = dict(query.args or {})
    last = a.get("skip", a.get("wanted"))
    kind, cast = ("skip", "text[]") if "skip" in a else ("wanted", "bigint[]")
    ((value,),) = stack.sql(
        f"select {query.rpc}(source_schema => %s, source => %s, key => %s,"
        f" conditions => %s::jsonb, buckets => %s, {kind} => %s::{cast})",
        *(a["source_schema"], a["source"], a["key"], json.dumps(a["conditions"])),
        *(a["buckets"], last),
    )
    return Read(Page((), None, 0.0, value), 0, 0.0)


@pytest.mark.parametrize("likely", [False, True])
@pytest.mark.parametrize("rows", [DIGEST_ROWS, 40])
@pytest.mark.parametrize("text", WHERE)
def test_a_true_table_is_distinguished_from_a_false_one_whose_rows_are_named(
    table: LocalStack, text: str | None, rows: int, likely: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By ranges of so many rows, of which each is a request; a large one that is likely false, finely."""
    monkeypatch.setattr("notebook_rt.sync.table.digest.DIGEST_ROWS", 50)
    replica = loaded(table, text)
    assert len(replica.rows) > 50
    assert compare(table, replica, rows, likely=likely) == (set(), set())
    table.sql("update digest_t set n = n where id in (3, 10)")
    table.sql("delete from digest_t where id in (17, 18)")
    table.sql("insert into digest_t values (99999, 3) on conflict do nothing")
    mine = set(replica.rows.keys())
    unknown, gone = compare(table, replica, rows, likely=likely)
    assert unknown == ({3, 10} & mine) | {99999}
    assert gone == {17, 18} & mine
    table.sql("delete from digest_t where id = 99999")


def test_rows_of_unknown_version_are_left_out_and_read(table: LocalStack) -> None:
    replica = loaded(table, None)
    replica.versions.forget([5])
    table.sql("update digest_t set n = 0 where id = 5")
    assert compare(table, replica) == ({5}, set())


def test_a_hash_that_takes_too_long_is_asked_for_by_smaller_ranges(table: LocalStack) -> None:
    """And not given up, which would be to compare all keys from then on."""
    replica, paging = loaded(table, None), Paging(10, digest=True)
    reads = Reads(replica.spec, replica.schema, 10)
    flow = by_digest(replica, reads, paging, Comparison(replica))
    asked = next(flow)
    assert isinstance(asked, Ahead)
    assert (asked.query.args or {})["conditions"] == []
    asked = flow.throw(ReadRefusedError(StatementTimeoutError("POST nrt_digest", 500)))
    assert isinstance(asked, Ahead)
    (condition,) = (asked.query.args or {})["conditions"]
    assert condition["operator"] == "lt", "the first of several ranges"
    assert paging.digest
    with pytest.raises(StopIteration) as given_up:
        flow.throw(ReadRefusedError(RefusedError("POST nrt_digest", 404)))
    assert not given_up.value.value
    assert not paging.digest


def test_nothing_is_hashed_here_before_a_server_has_shown_that_it_hashes(
    table: LocalStack,
) -> None:
    replica, paging = loaded(table, None), Paging(10)
    reads, comparison = Reads(replica.spec, replica.schema, 10), Comparison(replica)
    table.sql("update digest_t set n = n + 1 where id = 4")
    flow = by_digest(replica, reads, paging, comparison)
    asked = next(flow)
    assert not isinstance(asked, Ahead)
    while not isinstance(asked, Ahead | Pool) and asked[0].rpc:
        asked = flow.send([told(table, asked[0])])
    assert comparison.unknown == [4]
    assert paging.digest
    assert isinstance(next(by_digest(replica, reads, paging, comparison)), Ahead)


@pytest.mark.parametrize(
    "answer", [None, [], "x", {}, {"buckets": [10**9], "rows": [1], "digests": ["x"]}]
)
def test_what_else_answers_in_its_place_is_as_if_it_were_not_there(
    table: LocalStack, answer: object
) -> None:
    replica, paging = loaded(table, None), Paging(10)
    reads = Reads(replica.spec, replica.schema, 10)
    flow = by_digest(replica, reads, paging, Comparison(replica))
    asked = next(flow)
    assert not isinstance(asked, Ahead | Pool)
    with pytest.raises(StopIteration) as ended:
        flow.send([Read(Page((), None, 0.0, answer), 0, 0.0)])
    assert ended.value.value is False
    assert paging.digest is False


@given(
    keys=st.sets(st.integers(-(2**63), 2**63 - 1) | st.integers(0, 99), max_size=99),
    rows=st.integers(1, 40),
)
def test_ranges_of_a_table_are_all_of_it_and_none_is_much_larger_than_asked(
    keys: set[int], rows: int
) -> None:
    """In whatever order the keys came."""
    schema = Schema((Column("id", "int8"),), ("id",))
    replica = Replica(TableSpec("t"), schema, schema, Horizon())
    replica.rows = DictRows(schema)
    replica.rows.apply([Upsert(key, {"id": key}) for key in keys])
    sizes = [
        sum((low is None or key >= low) and (high is None or key < high) for key in keys)
        for low, high in replica.divided(rows)
    ]
    assert sum(sizes) == len(keys)
    assert max(sizes) <= 2 * rows + EDGE_SAMPLE


@pytest.mark.parametrize("key", ["anon_key", "service_key"])
def test_the_optional_sql_grants_its_own_functions(table: LocalStack, key: str) -> None:
    asked = {"source_schema": "public", "source": "digest_t", "key": "id", "conditions": []}
    table.sql("grant select on digest_t to service_role")
    for name, more in (("nrt_digest", {"skip": []}), ("nrt_rows", {"wanted": [0]})):
        answer = httpx.post(
            f"{table.url}/rest/v1/rpc/{name}",
            headers={"apikey": getattr(table, key)},
            json=asked | {"buckets": 1} | more,
        )
        assert answer.status_code == 200, answer.text


@pytest.mark.parametrize(
    ("pg_type", "key"),
    [("uuid", "md5(g::text)::uuid"), ("text", "repeat('ä' || g, g % 5 + 1)"), ("smallint", "g")],
)
def test_other_keys_are_compared_too(table: LocalStack, pg_type: str, key: str) -> None:
    table.sql(
        f"drop table if exists digest_k; create table digest_k (id {pg_type} primary key, n int)"
    )
    table.sql("grant select on digest_k to anon, authenticated")
    table.sql(f"insert into digest_k select {key}, g from generate_series(1, 300) g")
    replica = loaded(table, None, "digest_k")
    assert Digest(replica).possible
    assert compare(table, replica) == (set(), set())
    moved, gone, unread = list(replica.rows.keys())[4:7]
    table.sql("update digest_k set n = 0 where id::text = %s", str(moved))
    table.sql("delete from digest_k where id::text = %s", str(gone))
    replica.versions.forget([unread])
    assert compare(table, replica) == ({moved, unread}, {gone})


def test_an_xid_counted_back_from_the_next_is_itself(table: LocalStack) -> None:
    xids = ["3", "1000", str(2**31), str(2**31 + 3), str(2**32 - 1)]
    counted = table.sql(
        "select x, (age('3'::xid)::bigint + 3 - age(x::xid)) & 4294967295 "
        "from unnest(%s::text[]) x",
        xids,
    )
    assert counted == [(xid, int(xid)) for xid in xids]
    table.sql("vacuum freeze digest_t")
    assert compare(table, loaded(table, None)) == (set(), set())


@given(st.integers(-(2**63), 2**63 - 1), st.integers(0, 2**32))
def test_a_hash_depends_on_key_and_version(key: int, version: int) -> None:
    one, other = hash_int8(np.array([key, key]), np.array([version, version + 1]))
    assert one != other


def test_a_hostile_literal_is_a_value_and_never_sql(table: LocalStack) -> None:
    """A literal of a filter reaches the server as a value, never as SQL."""
    hostile = parse({"n": "0); drop table digest_t; --"})
    replica = loaded(table, None)
    replica.spec = TableSpec("digest_t", filter=hostile)
    with pytest.raises(Exception, match="invalid input syntax for type integer"):
        compare(table, replica)
    assert table.sql("select count(*) > 0 from digest_t") == [(True,)]
