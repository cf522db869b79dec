"""Three-way merge of a local edit with concurrent changes, column by column (promises, edits).

Its input is a value's base (what the edit was based on), mine and theirs, and the column's strategy; its
output is a ``Merged``. ``rebase`` merges a whole edit with the server's current row, and returns what is
left to send, what was decided (``Conflict`` records) and what a person must decide.

The laws, checked by ``tests/sync/test_merge.py``: if mine is unchanged, the result is theirs; if theirs is
unchanged, the result is mine; merging a result with the same server row again changes nothing.

Times are seconds since the epoch *in server time*: the caller corrects its own clock's offset.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final, Literal, TypeAlias

import msgspec
from msgspec.structs import replace

from notebook_rt.model.rows import Key, Row
from notebook_rt.model.types import equal

Rule: TypeAlias = Literal["lww", "server", "local", "union", "delta", "ask"]
MergeFunction: TypeAlias = Callable[[Any, Any, Any, Row], Any]
"""``(base, mine, theirs, row)`` to the value to keep; ``row`` is the server's."""
Strategy: TypeAlias = Rule | MergeFunction

ANSWER_LOST: Final = "an answer was lost"
"""Prefix of the rule of a conflict that is open because of a lost answer, not because values differ."""
ANOTHER_ROW: Final = "made of another row"
"""The rule of a conflict that is open because the edit was made to a row that was not inserted."""
RULES: Final[tuple[Rule, ...]] = ("ask", "delta", "local", "lww", "server", "union")


class Merged(msgspec.Struct, frozen=True):
    """The result of a merge, and the reason."""

    value: Any
    rule: str
    """``same``, ``mine`` or ``theirs`` where at most one side changed; else the rule that decided."""
    conflict: bool = False
    """Whether both sides changed the value, differently."""
    open: bool = False
    """Whether nothing was decided; ``value`` is mine until a person decides."""


@dataclass(frozen=True, slots=True)
class Conflict:
    """The record of one decision, or of one that is still to be made (``open``)."""

    at: float
    """Time of the merge, seconds since the epoch in server time."""
    op: str
    """The edit's id."""
    key: Key
    column: str | None
    """None: the row itself (an edit against a delete, or two inserts of one key)."""
    base: Any
    mine: Any
    theirs: Any
    result: Any
    rule: str
    who: str | None = None
    """The author of theirs, if the row has it (``updated_by``)."""
    open: bool = False


def _name(strategy: Strategy) -> str:
    return f"function {getattr(strategy, '__name__', '')}" if callable(strategy) else strategy


class Strategies(msgspec.Struct, frozen=True):
    """How a table merges: one strategy for all columns, and others by column.

    Raises
    ------
    ValueError
        If a strategy is neither a known name nor a function.
    """

    default: Strategy = "lww"
    columns: Mapping[str, Strategy] = msgspec.field(default_factory=dict)
    version: str | None = "updated_at"
    """The column that holds the time of a row's last change, if the table has one."""

    def __post_init__(self) -> None:
        for strategy in (self.default, *self.columns.values()):
            if not callable(strategy) and strategy not in RULES:
                names = ", ".join(RULES)
                raise ValueError(
                    f"no merge strategy {strategy!r}; there are {names}, or a function"
                )

    def of(self, column: str) -> Strategy:
        return self.columns.get(column, self.default)

    def names(self, columns: Iterable[str]) -> dict[str, str]:
        """Return the strategies by name, as an operation on these columns carries them (``Op.rules``)."""
        named = {column: _name(self.of(column)) for column in columns}
        return {**named, "": _name(self.default)}

    def of_inserted(self, column: str) -> Strategy:
        """Return the strategy of a column for two rows that were inserted under one key.

        There is no base, so a difference cannot be added.
        """
        strategy = self.of(column)
        return self.default if strategy == "delta" else strategy

    @property
    def asks_about_inserts(self) -> bool:
        """Whether a person must decide about two rows that were inserted under one key."""
        return self.default not in ("server", "local")

    def time_of(self, row: Row) -> float | None:
        """Return when the server's row was last changed, according to its version column."""
        return None if self.version is None else seconds(row.get(self.version))


Kind: TypeAlias = Literal["update", "insert", "delete"]


class Edit(msgspec.Struct, frozen=True):
    """One local edit: the changed columns, and the values that they were based on."""

    id: str
    kind: Kind
    key: Key
    """The row's key before the edit."""
    values: Row
    base: Row
    """Previous values of the changed columns; for a delete, the row as it was seen; empty for an insert."""
    at: float
    own_key: bool = False
    """An insert whose key was generated here at random: a row under it can only be this one."""
    sent: bool = False
    """Whether it was sent at least once, and its effect is not known yet."""
    lane: str = ""
    """The lane that defines its order in the queue, if it was put there."""
    upsert: bool = False
    """An insert that sets the columns of an existing row with its key instead, whatever their values."""


class Rebased(msgspec.Struct, frozen=True):
    """An edit after merging it with the server's current row."""

    edit: Edit | None
    """What is still to be written, based on that row; None: nothing."""
    conflicts: tuple[Conflict, ...] = ()
    open: bool = False
    """Whether a person must decide before anything is written."""


def seconds(value: Any) -> float | None:
    """Return a typed time as seconds since the epoch; a time without a zone is UTC."""
    if isinstance(value, dt.datetime):
        return (value if value.tzinfo else value.replace(tzinfo=dt.UTC)).timestamp()
    if isinstance(value, str):
        try:
            return seconds(dt.datetime.fromisoformat(value))
        except ValueError:
            return None
    return None


def merge_value(
    base: Any,
    mine: Any,
    theirs: Any,
    strategy: Strategy = "lww",
    *,
    mine_at: float = 0.0,
    theirs_at: float | None = None,
    row: Row | None = None,
) -> Merged:
    """Merge one value.

    Parameters
    ----------
    base, mine, theirs
        Typed values (or plain JSON values); None is null.
    strategy
        The rule that decides if both sides changed the value, differently.
    mine_at, theirs_at : float
        When the edit was made and when the server's row was last changed, in server time. If the row
        has no time (None), the later one is the one that reaches the server last: mine.
    row
        The server's row, for a function.

    Examples
    --------
    >>> merge_value(["a", "b"], ["a", "c"], ["a", "b", "d"], "union").value
    ['a', 'd', 'c']
    >>> merge_value(5, 7, 6, "delta").value
    8
    """
    if equal(base, mine):
        return Merged(theirs, "same" if equal(base, theirs) else "theirs")
    if equal(base, theirs):
        return Merged(mine, "mine")
    if strategy == "delta" and all(map(_is_number, (base, mine, theirs))):
        # Before the test for equality: if two users both add one, the sum grows by two.
        return Merged(_add(theirs, mine, base), "delta", conflict=True)
    return _decided(base, mine, theirs, strategy, mine_at, theirs_at, row)


def merge_inserted(edit: Edit, column: str, row: Row, strategies: Strategies) -> Merged:
    """Merge one value of an insert with the row that another client has inserted under its key.

    There is no base: a null is a value like any other.
    """
    mine, theirs = edit.values[column], row.get(column)
    strategy, theirs_at = strategies.of_inserted(column), strategies.time_of(row)
    return _decided(None, mine, theirs, strategy, edit.at, theirs_at, row)


def _decided(
    base: Any,
    mine: Any,
    theirs: Any,
    strategy: Strategy,
    mine_at: float,
    theirs_at: float | None,
    row: Row | None,
) -> Merged:
    """Return the merge of two values, both of which were written."""
    if equal(mine, theirs):
        return Merged(theirs, "same")
    if callable(strategy):
        return _by_function(strategy, base, mine, theirs, row or {})
    if strategy == "union" and all(map(_is_collection, (base, mine, theirs))):
        return Merged(_union(base, mine, theirs), "union", conflict=True)
    if strategy == "server":
        return Merged(theirs, "server", conflict=True)
    if strategy == "local":
        return Merged(mine, "local", conflict=True)
    if strategy == "ask":
        return Merged(mine, "ask", conflict=True, open=True)
    if theirs_at is None:
        return Merged(mine, "lww, by the order of arrival: the row has no time", conflict=True)
    return Merged(theirs if theirs_at > mine_at else mine, "lww", conflict=True)


def rebase(
    edit: Edit,
    row: Row | None,
    strategies: Strategies,
    now: float,
    *,
    moved: bool | None = None,
) -> Rebased:
    """Merge an edit with the server's current row, which becomes its new base.

    Parameters
    ----------
    edit
        The edit as it was last sent (or would have been).
    row
        The server's row under ``edit.key``; None: it is deleted (for an insert: it does not exist yet).
    now : float
        The time for the records, in server time.
    moved : bool, optional
        Whether the row's version changed since the edit was sent without an answer; None: unknown.
    """
    if row is None:
        return _without_row(edit, strategies, now)
    if edit.kind == "delete":
        return _delete_against_edit(edit, row, strategies, now)
    if edit.kind == "insert":
        if edit.own_key or all(equal(v, row.get(c)) for c, v in edit.values.items()):
            return Rebased(None)
        if strategies.asks_about_inserts:
            return _insert_against_insert(edit, row, now)
    values: dict[str, Any] = {}
    based_on: dict[str, Any] = {}
    conflicts = []
    theirs_at = strategies.time_of(row)
    for column, mine in edit.values.items():
        theirs = row.get(column)
        inserted = edit.kind == "insert"
        old = None if inserted else edit.base.get(column, theirs)
        strategy = strategies.of_inserted(column) if inserted else strategies.of(column)
        if inserted:
            merged = merge_inserted(edit, column, row, strategies)
        else:
            merged = merge_value(
                old, mine, theirs, strategy, mine_at=edit.at, theirs_at=theirs_at, row=row
            )
        if edit.sent and _may_apply_twice(edit, merged, theirs, strategy, theirs_at, moved):
            merged = Merged(mine, f"{ANSWER_LOST}: it may be in already", True, open=True)
        if merged.conflict:
            conflicts.append(_record(edit, column, old, mine, theirs, merged, row, now))
        if merged.open:
            values[column], based_on[column] = mine, theirs if inserted else old
        elif not equal(merged.value, theirs):
            values[column], based_on[column] = merged.value, theirs
    undecided = any(c.open for c in conflicts)
    if not values:
        return Rebased(None, tuple(conflicts))
    left = replace(edit, kind="update", values=values, base=based_on)
    return Rebased(left if undecided else replace(left, sent=False), tuple(conflicts), undecided)


def _may_apply_twice(
    edit: Edit,
    merged: Merged,
    theirs: Any,
    strategy: Strategy,
    theirs_at: float | None,
    moved: bool | None,
) -> bool:
    """Return whether writing ``merged`` after a lost answer could apply the edit a second time.

    Setting the same value twice is harmless. Adding a sum again is not, unless the row has not changed at
    all. A union restores items that another client removed meanwhile, unless the row contains all of it.
    Setting a value overwrites one that another client wrote meanwhile.
    """
    if merged.rule in ("same", "theirs"):
        return False
    if strategy == "delta" and edit.kind == "update":
        return moved is not False
    if strategy == "union" and edit.kind == "update":
        return moved is not False and not equal(merged.value, theirs)
    if not merged.conflict or strategy in ("server", "local", "union", "ask"):
        return False
    return callable(strategy) or theirs_at is None


def _without_row(edit: Edit, strategies: Strategies, now: float) -> Rebased:
    if edit.kind == "insert":
        return Rebased(edit)
    if edit.kind == "delete":
        return Rebased(None)
    drop = strategies.default == "server"
    record = Conflict(
        now,
        edit.id,
        edit.key,
        None,
        base=dict(edit.base),
        mine=dict(edit.values),
        theirs=None,
        result=None,
        rule="server" if drop else "edit against delete",
        open=not drop,
    )
    return Rebased(None if drop else edit, (record,), open=not drop)


def _insert_against_insert(edit: Edit, row: Row, now: float) -> Rebased:
    """Ask about an insert whose given key already has a row: only a person can decide whose it is."""
    rule = f"{ANSWER_LOST}: it may be in already" if edit.sent else "insert against insert"
    asks = Merged(None, rule, True, open=True)
    record = _record(edit, None, None, dict(edit.values), dict(row), asks, row, now)
    return Rebased(edit, (record,), open=True)


def _delete_against_edit(edit: Edit, row: Row, strategies: Strategies, now: float) -> Rebased:
    if all(equal(value, row.get(column)) for column, value in edit.base.items()):
        return Rebased(replace(edit, sent=False))
    strategy = strategies.default
    theirs_at = strategies.time_of(row)
    if strategy not in ("lww", "server", "local"):
        merged = Merged(None, "delete against edit", True, open=True)
    elif strategy == "server" or (
        strategy == "lww" and theirs_at is not None and theirs_at > edit.at
    ):
        merged = Merged(dict(row), strategy, True)
    else:
        merged = Merged(None, strategy, True)
    record = _record(edit, None, dict(edit.base), None, dict(row), merged, row, now)
    if merged.open:
        return Rebased(edit, (record,), open=True)
    if merged.value is not None:
        return Rebased(None, (record,))
    base = {column: row.get(column) for column in edit.base}
    return Rebased(replace(edit, base=base, sent=False), (record,))


def _record(
    edit: Edit,
    column: str | None,
    base: Any,
    mine: Any,
    theirs: Any,
    merged: Merged,
    row: Row,
    now: float,
) -> Conflict:
    who = row.get("updated_by")
    return Conflict(
        now,
        edit.id,
        edit.key,
        column,
        base,
        mine,
        theirs,
        None if merged.open else merged.value,
        merged.rule,
        None if who is None else str(who),
        merged.open,
    )


def _by_function(function: MergeFunction, base: Any, mine: Any, theirs: Any, row: Row) -> Merged:
    name = getattr(function, "__name__", "function")
    try:
        return Merged(function(base, mine, theirs, dict(row)), name, conflict=True)
    except Exception as error:
        # A user's function that fails must not lose the user's edit: the user is asked instead.
        return Merged(mine, f"{name} raised {type(error).__name__}: {error}", True, open=True)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float, Decimal)) and not isinstance(value, bool)


def _add(theirs: Any, mine: Any, base: Any) -> Any:
    if isinstance(theirs, int) and isinstance(mine, int) and isinstance(base, int):
        return theirs + (mine - base)
    if any(isinstance(value, Decimal) for value in (theirs, mine, base)):
        return Decimal(str(theirs)) + (Decimal(str(mine)) - Decimal(str(base)))
    return theirs + (mine - base)


def _is_collection(value: Any) -> bool:
    return value is None or isinstance(value, (list, tuple, set, frozenset))


def _union(base: Any, mine: Any, theirs: Any) -> Any:
    """Return theirs without what I removed, then what I added, in my order; a removal stays removed."""
    before, ours = _names(base), _names(mine)
    removed = before.keys() - ours.keys()
    kept = {name: item for name, item in _names(theirs).items() if name not in removed}
    for name, item in ours.items():
        if name not in before:
            kept.setdefault(name, item)
    made = set if isinstance(mine, (set, frozenset)) else list
    return made(kept.values())


def _names(items: Iterable[Any] | None) -> dict[str, Any]:
    """Return items by their JSON: items of a json array need not be hashable, and 1 is not true."""
    return {json.dumps(item, sort_keys=True, default=str): item for item in items or ()}
