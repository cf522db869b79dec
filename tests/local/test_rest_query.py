"""The query string's grammar: it is read as intended, or refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from notebook_rt.local.rest import query as q
from notebook_rt.local.rest.compose import identifier
from notebook_rt.local.rest.errors import RestError
from notebook_rt.local.rest.parse import parse

texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))
names = texts.filter(bool)
steps = st.builds(q.Step, st.booleans(), names | st.integers(-(10**8), 10**8))
fields = st.builds(q.Field, names, st.lists(steps, max_size=2).map(tuple))


def operations(values: st.SearchStrategy[str]) -> st.SearchStrategy[q.Filter]:
    plain = sorted(q.COMPARISONS | q.CONTAINMENTS | q.SEARCHES)
    return st.one_of(
        st.builds(q.Filter, fields, st.sampled_from(plain), values, st.booleans()),
        st.builds(
            q.Filter,
            fields,
            st.sampled_from(sorted(q.COMPARISONS)),
            values,
            st.booleans(),
            st.sampled_from(["any", "all"]),
        ),
        st.builds(
            q.Filter,
            fields,
            st.sampled_from(sorted(q.SEARCHES)),
            values,
            st.booleans(),
            st.none(),
            st.just("english"),
        ),
        st.builds(
            q.Filter, fields, st.just("is"), st.sampled_from(sorted(q.IS_VALUES)), st.booleans()
        ),
        st.builds(
            q.Filter,
            fields,
            st.just("in"),
            st.lists(values, max_size=3).filter(lambda found: found != [""]).map(tuple),
            st.booleans(),
        ),
    )


def logic(depth: int) -> st.SearchStrategy[q.Condition]:
    if depth == 0:
        return operations(texts)
    inner = st.lists(logic(depth - 1), min_size=1, max_size=3).map(tuple)
    operator = st.sampled_from(["and", "or"])
    return operations(texts) | st.builds(q.Logic, operator, inner, st.booleans())


orders = st.builds(q.Order, fields, st.none() | st.booleans(), st.none() | st.booleans())
items = st.just(q.Item(q.Field("*"))) | st.builds(
    q.Item, fields, st.none() | names, st.sampled_from([None, "text", "double precision", "int[]"])
)


def quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def write_field(field: q.Field) -> str:
    arrows = "".join(
        ("->>" if step.as_text else "->")
        + (str(step.key) if isinstance(step.key, int) else quoted(step.key))
        for step in field.path
    )
    return quoted(field.name) + arrows


def write_operation(filter: q.Filter, nested: bool) -> str:
    word = filter.modifier or filter.language
    operator = filter.operator + (f"({word})" if word else "")
    if isinstance(filter.value, tuple):
        value = f"({','.join(map(quoted, filter.value))})"
    elif filter.operator == "is" or not nested:
        value = filter.value
    else:
        value = quoted(filter.value)
    return ("not." if filter.negated else "") + f"{operator}.{value}"


def write_condition(condition: q.Condition) -> str:
    if isinstance(condition, q.Filter):
        return f"{write_field(condition.field)}.{write_operation(condition, nested=True)}"
    members = ",".join(map(write_condition, condition.members))
    return ("not." if condition.negated else "") + f"{condition.operator}({members})"


def write(query: q.Query) -> list[tuple[str, str]]:
    """A query string that says a `Query`."""
    pairs = []
    for condition in query.where:
        if isinstance(condition, q.Filter):
            pairs.append((write_field(condition.field), write_operation(condition, nested=False)))
        else:
            members = ",".join(map(write_condition, condition.members))
            key = ("not." if condition.negated else "") + condition.operator
            pairs.append((key, f"({members})"))
    pairs.append(("select", ", ".join(map(write_item, query.select))))
    if query.order:
        pairs.append(("order", ",".join(map(write_order, query.order))))
    if query.limit is not None:
        pairs.append(("limit", str(query.limit)))
    pairs.append(("offset", str(query.offset)))
    return pairs


def write_item(item: q.Item) -> str:
    if item == q.Item(q.Field("*")):
        return "*"
    alias = f"{quoted(item.alias)}:" if item.alias else ""
    return alias + write_field(item.field) + (f"::{item.cast}" if item.cast else "")


def write_order(order: q.Order) -> str:
    direction = {None: "", True: ".desc", False: ".asc"}[order.descending]
    return (
        write_field(order.field)
        + direction
        + {None: "", True: ".nullsfirst", False: ".nullslast"}[order.nulls_first]
    )


queries = st.builds(
    q.Query,
    select=st.lists(items, max_size=3).map(tuple),
    where=st.lists(logic(2), max_size=3).map(tuple),
    order=st.lists(orders, max_size=3).map(tuple),
    limit=st.none() | st.integers(0, 10**9),
    offset=st.integers(0, 10**9),
)


@given(queries)
def test_what_is_written_is_what_is_read(query: q.Query) -> None:
    assert parse(write(query)) == query


@given(
    st.lists(
        st.tuples(
            texts | st.sampled_from(["select", "order", "and", "not.or", "limit", "columns"]),
            st.text(st.sampled_from('abn.,:()"\\-> *{}!09=')) | texts,
        ),
        max_size=3,
    ),
    st.booleans(),
)
def test_any_text_is_read_or_refused_by_name(pairs: list[tuple[str, str]], call: bool) -> None:
    try:
        parse(pairs, call=call)
    except RestError as error:
        refusal = error
    else:
        return
    assert refusal.status in (400, 416, 501)
    assert refusal.message


def test_nesting_is_refused_before_it_exhausts_the_stack() -> None:
    with pytest.raises(RestError) as refused:
        parse([("and", "(or" * 5000 + "(a.eq.1" + ")" * 5001)])
    assert refused.value.code == "PGRST100"


@pytest.mark.parametrize(
    ("pairs", "code"),
    [
        ([("id", "foo.1")], "PGRST100"),
        ([("id", "eq")], "PGRST100"),
        ([("id", "in.1,2")], "PGRST100"),
        ([("id", "is.maybe")], "PGRST100"),
        ([("id", "neq(any).{1}")], "PGRST100"),
        ([("or", "(id.eq.1")], "PGRST100"),
        ([("or", "()")], "PGRST100"),
        ([("order", "id.up")], "PGRST100"),
        ([("select", "id::")], "PGRST100"),
        ([("select", 'id::int);drop table"x')], "PGRST100"),
        ([("limit", "-1")], "PGRST103"),
        ([("select", "count()")], "PGRST123"),
        ([("select", "price.sum()")], "PGRST123"),
        ([("select", "id,author(name)")], "NRT501"),
        ([("select", "...author(name)")], "NRT501"),
        ([("author.name", "eq.x")], "NRT501"),
        ([("author.limit", "1")], "NRT501"),
        ([("a\0", "eq.1")], "22021"),
    ],
)
def test_refusals(pairs: list[tuple[str, str]], code: str) -> None:
    with pytest.raises(RestError) as refused:
        parse(pairs)
    assert refused.value.code == code


def test_postgrests_own_examples() -> None:
    def one(key: str, value: str) -> q.Condition:
        return parse([(key, value)]).where[0]

    name = q.Field("name")
    assert one("name", 'in.(a,"b,c","d\\"e", f)') == q.Filter(name, "in", ("a", "b,c", 'd"e', " f"))
    assert one("name", "in.()") == q.Filter(name, "in", ())
    assert one("name", "not.is.null") == q.Filter(name, "is", "null", negated=True)
    assert one("name", "IS.null".lower()) == q.Filter(name, "is", "null")
    assert one("a-b", "eq.a.b.c") == q.Filter(q.Field("a-b"), "eq", "a.b.c")
    assert one("or", "(a.cs.{1,2},b.not.in.(3,4))") == q.Logic(
        "or",
        (
            q.Filter(q.Field("a"), "cs", "{1,2}"),
            q.Filter(q.Field("b"), "in", ("3", "4"), negated=True),
        ),
    )
    data = q.Field("data", (q.Step(False, "a"), q.Step(True, -1)))
    assert parse([("select", "x:data->a->>-1::int")]).select == (q.Item(data, "x", "int"),)
    assert parse([("arg", "5"), ("id", "gt.1")], call=True).arguments == (("arg", "5"),)


@given(names)
def test_identifiers_cannot_be_left(name: str) -> None:
    inner = identifier(name)[1:-1]
    assert '"' not in inner.replace('""', "")
