"""Local edits laid over a table (promises, edits): a ``Rows`` over another ``Rows``.

The mirror passes it the server's rows; the table below holds the view, which is the server's rows with
the pending edits merged in. Where nothing is pending it is transparent and costs a test of an empty
dict. For a row with edits, the server's row is kept aside, unchanged by any edit. The view is computed
from both, from scratch, each time either changes, so every order of the same events leads to the same
view.

An edit is removed when its effect was seen. The answer to a write contains the row. An event that was
committed before the write may still arrive, and must not be shown: a *shield* holds it back until the
event with the effect arrives (or the table is read again). So an edit is replaced without a flicker.
If an event arrived while the write was in flight, and no version shows which of the two is later, the
written columns stay laid over the event's row until a read decides.

A delete that the mirror reports is either a delete or a row that left the filter. In both cases the
edit stays pending and the view no longer shows the row; the outbox finds out which it was
(``merge.rebase``).

The caller holds one lock around every call, and around reading the table below.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from notebook_rt.edits.difference import between, net, operation
from notebook_rt.edits.merge import Edit, Strategies, merge_inserted, merge_value
from notebook_rt.edits.stacks import Stacks
from notebook_rt.model.rows import Delete, Key, Load, Op, Row, RowChange, Rows, Upsert, WireRow
from notebook_rt.model.types import Schema, differs, equal
from notebook_rt.model.xmins import integers, merge_sorted, without

DROPPED = 1_000
"""Maximum number of rows whose discarded values are remembered."""
SHIELD_SECONDS = 10.0
"""How long an answered write waits for its event; after that, any event is accepted again."""


class _Shield(msgspec.Struct, eq=False):
    """Holds back events older than an answered write, until the write's own event arrives."""

    seen: Row | None
    """The written columns as answered; None: the row was deleted."""
    version: float | None
    since: float
    """When the answer arrived, monotonic seconds."""
    unsure: bool = False
    """Whether the row held here may be later than the answer: only a read can decide."""


class _Beneath(msgspec.Struct):
    """The server's row under a key that edits or a shield concern."""

    row: dict[str, Any] | None
    shield: _Shield | None = None
    last: dict[str, Any] | None = None
    """The row before it was gone, which an edit that outlives it would restore."""


class Overlay:
    """Pending edits over ``rows``. The module docstring describes its guarantees.

    Parameters
    ----------
    rows : Rows
        Holds the view.
    schema : Schema
        Decodes the rows of a reconciliation, and names the key.
    strategies : Strategies
        How the table merges.
    matches : callable, optional
        Returns whether a row is in the table's filter (None: only the server knows).
    suspect : callable, optional
        Called with the key of a row that must be read, because an event and an answer have no known order.
    """

    def __init__(
        self,
        rows: Rows,
        schema: Schema,
        strategies: Strategies | None = None,
        matches: Callable[[Row], bool | None] | None = None,
        suspect: Callable[[Key], object] = lambda key: None,
    ) -> None:
        self.rows = rows
        self.schema = schema
        self.strategies = strategies or Strategies()
        self._matches = matches
        self._suspect = suspect
        self._beneath: dict[Key, _Beneath] = {}
        self._stacks = Stacks(schema)
        self.dropped: dict[Key, Row] = {}
        """Values that discarded edits gave to rows, until the server reports on the row."""
        self._seen: dict[str, set[Key]] = {}
        """Edits whose effect arrived as an event before their answer, and under which keys."""
        self._crossed: set[str] = set()
        """Edits in flight whose rows have received another event since they were sent."""
        self._shown: dict[Key, Row] = {}
        """What the view shows under the keys that are kept aside, where it shows a row."""
        self._hidden: set[Key] = set()
        """Rows that the server has and an edit hides: the table below keeps their positions."""
        self._shielded: dict[Key, None] = {}
        self._arriving: dict[Key, None] = {}
        """Keys of rows that an insert in flight creates and that have not arrived: they may be deleted again
        before its answer arrives."""
        self._expected: set[str] = set()
        """Inserts without a key that are in flight."""
        self._departed: set[Key] = set()
        """Rows that the server has reported deleted meanwhile."""
        self.noted: list[Op] | None = None
        """Changes of the server's rows, in order, since they were last taken; None: not recorded."""
        self.heard: list[Op] | None = None
        """Changes from the mirror, without answers to writes, since last taken; None: not recorded."""
        self.answers: list[Op] = []
        """Changes from answers to writes, recorded while ``heard`` is."""

    # --- the server's rows, as the mirror sees them ----------------------------------------------

    def __len__(self) -> int:
        there = sum(1 for below in self._beneath.values() if below.row is not None)
        return len(self.rows) - len(self._shown) + there

    def __contains__(self, key: Key) -> bool:
        below = self._beneath.get(key)
        return key in self.rows if below is None else below.row is not None

    @property
    def pending_keys(self) -> Collection[Key]:
        return self._shielded.keys() | self._arriving.keys()

    def admit(self, key: Key, sent_at: float) -> None:
        below = self._beneath.get(key)
        if below is not None and below.shield is not None and below.shield.since <= sent_at:
            below.shield = None
            del self._shielded[key]

    def get(self, key: Key) -> dict[str, Any] | None:
        below = self._beneath.get(key)
        if below is None:
            return self.rows.get(key)
        return None if below.row is None else dict(below.row)

    def gather(self, keys: Iterable[Key]) -> dict[Key, dict[str, Any] | None]:
        if not self._beneath:
            return self.rows.gather(keys)
        keys = list(keys)
        found = self.rows.gather(key for key in keys if key not in self._beneath)
        return {key: self.get(key) if key in self._beneath else found[key] for key in keys}

    def keys(self) -> Iterator[Key]:
        if not self._beneath:
            yield from self.rows.keys()
            return
        yield from filter(self.__contains__, self.rows.keys())
        for key, below in self._beneath.items():
            if below.row is not None and key not in self.rows:
                yield key

    def integers(self) -> NDArray[np.int64] | None:
        found, below = self.rows.integers(), integers(self._beneath)
        if found is None or below is None or not len(below):
            return None if below is None else found
        there = np.fromiter(
            (one.row is not None for one in self._beneath.values()), bool, len(below)
        )
        return merge_sorted(without(found, below[~there]), below[there])

    def latest(self, column: str, most: int) -> list[Key]:
        found = self.rows.latest(column, most + len(self._beneath))
        if not found or not self._beneath:
            return found[:most]
        rows = self.gather({*found, *self._beneath})
        moments = {key: row[column] for key, row in rows.items() if row is not None}
        if not all(isinstance(one, dt.datetime) for one in moments.values()):
            return []
        return sorted(moments, key=moments.__getitem__, reverse=True)[:most]

    def apply(self, ops: Sequence[Op], *, want_changes: bool = False) -> Sequence[RowChange]:
        if self.noted is not None:
            self.noted += ops
        if self.heard is not None:
            self.heard += ops
        for op in ops if self.dropped else ():
            self.dropped.pop(op.key, None)
        if self._expected:
            self._departed.update(op.key for op in ops if isinstance(op, Delete))
        if not self._beneath:
            return self.rows.apply(ops, want_changes=want_changes)
        through: list[Op] = []
        touched: dict[Key, None] = {}
        for op in ops:
            below = self._beneath.get(op.key)
            if below is None:
                through.append(op)
            else:
                self._server_says(op, below)
                touched[op.key] = None
        return self._refresh(touched, through, want_changes)

    def load(self) -> Load:
        return _Load(self, self.rows.load())

    def differing(self, page: Sequence[WireRow]) -> list[tuple[Key, Row]]:
        if not self._beneath:
            return self.rows.differing(page)
        transparent: list[WireRow] = []
        different: list[tuple[Key, Row]] = []
        for wire in page:
            key = self.schema.key_of(
                self.schema.decode({name: wire[name] for name in self.schema.key})
            )
            below = self._beneath.get(key)
            if below is None:
                transparent.append(wire)
                continue
            row = self.schema.decode(wire)
            if below.row is None or differs(row, below.row):
                different.append((key, row))
        return self.rows.differing(transparent) + different

    # --- local edits -----------------------------------------------------------------------------

    @property
    def transparent(self) -> bool:
        """Whether nothing is kept aside: the view is the server's rows."""
        return not self._beneath

    @property
    def edits(self) -> list[Edit]:
        """Every pending edit; the edits of one row in order."""
        return list(self._stacks)

    def edits_of(self, key: Key) -> list[Edit]:
        """Return the pending edits of the row that the view shows (or showed) under ``key``."""
        return list(self._stacks.of(key))

    def view(self, key: Key) -> dict[str, Any] | None:
        """Return the row as the user sees it."""
        return self.rows.get(key)

    def views(self, keys: Iterable[Key]) -> dict[Key, dict[str, Any] | None]:
        """Return rows as the user sees them."""
        return self.rows.gather(keys)

    def last(self, key: Key) -> dict[str, Any] | None:
        """Return the server's row under ``key``, or its last state before it was gone, if known."""
        below = self._beneath.get(self._stacks.root(key))
        if below is None:
            return self.rows.get(key)
        return dict(below.row or below.last or {}) or None

    def accepts(self, row: Row) -> bool:
        """Return whether a new row may be shown: it is not known to be outside the filter."""
        return self._matches is None or self._matches(row) is not False

    def outside(self) -> list[Key]:
        """Return the keys of rows that are shown as edited, although their shown values fail the filter."""
        return [key for key, row in self._shown.items() if not self.accepts(row)]

    def reverting(self) -> list[Op]:
        """Return the operations that turn the rows of the view into the server's."""
        found: list[Op] = []
        for key, below in self._beneath.items():
            if below.row is not None:
                found.append(Upsert(key, below.row))
            elif key in self._shown:
                found.append(Delete(key))
        return found

    def put(
        self,
        edits: Iterable[Edit],
        *,
        seen: Mapping[Key, Row] = MappingProxyType({}),
        want_changes: bool = False,
    ) -> Sequence[RowChange]:
        """Lay edits over the table, as one change. An edit with a known id replaces the earlier one.

        ``seen`` contains whole, current rows of the view: they are not looked up again.
        """
        overlaid = list(edits)
        # An edit that is sent again, on another base, has no effect yet.
        touched: dict[Key, None] = {}
        for edit in overlaid:
            if not edit.sent:
                self._seen.pop(edit.id, None)
                self._crossed.discard(edit.id)
            known = self._stacks.get(edit.id)
            if known is not None:
                touched.update(dict.fromkeys(self._stacks.linked(known.key).keys))
            self._stacks.add(edit)
            touched.update(dict.fromkeys(self._stacks.keys_of(edit)))
        self._keep_below(touched, seen)
        for edit in overlaid:
            self._expect(edit)
        return self._refresh(touched, [], want_changes)

    def sent(self, ids: Iterable[str]) -> None:
        """Note that edits are in flight: their sums are no longer added to incoming values."""
        ids = list(ids)
        self._stacks.sent(ids)
        for op in ids:
            edit = self._stacks.get(op)
            if edit is not None:
                self._expect(edit)

    def discard(self, ids: Iterable[str], *, want_changes: bool = False) -> Sequence[RowChange]:
        """Remove edits; the rows are the server's again."""
        touched: dict[Key, None] = {}
        for op in ids:
            edit = self._stacks.get(op)
            if edit is not None:
                touched.update(dict.fromkeys(self._stacks.linked(edit.key).keys))
                if edit.kind == "update":
                    key = self.new_key(edit)
                    self.dropped[key] = {**self.dropped.pop(key, {}), **edit.values}
                self._stacks.take(op)
                self._seen.pop(op, None)
                self._crossed.discard(op)
                self._arriving.pop(edit.key, None)
        while len(self.dropped) > DROPPED:
            del self.dropped[next(iter(self.dropped))]
        return self._refresh(touched, [], want_changes)

    def give_way(
        self, op: str, row: Row, *, now: float, want_changes: bool = False
    ) -> Sequence[RowChange]:
        """Remove an insert whose key belongs to another writer's row, and show that row.

        Events from the server about the key take precedence over ``row``. Without any, a read decides
        whether ``row`` is still correct.

        Parameters
        ----------
        op
            The insert; if it is not here, nothing happens.
        row
            The other writer's row, typed, as it was read.
        now : float
            Monotonic seconds.
        """
        edit = self._stacks.get(op)
        if edit is None or edit.key in self:
            return self.discard([op], want_changes=want_changes)
        self._crossed.add(op)
        return self.settle(op, row, now=now, want_changes=want_changes)

    def settle(
        self, op: str, row: Row | None = None, *, now: float = 0.0, want_changes: bool = False
    ) -> Sequence[RowChange]:
        """Note that an edit was written; parameters are those of `settle_all`."""
        return self.settle_all([(op, row)], now=now, want_changes=want_changes)

    def settle_all(
        self, done: Iterable[tuple[str, Row | None]], *, now: float, want_changes: bool = False
    ) -> Sequence[RowChange]:
        """Note that edits were written, as one change.

        Parameters
        ----------
        done
            The ids of the edits, where unknown ids are ignored, and the rows as the server has them now,
            typed; None: deleted, or not known.
        now : float
            Monotonic seconds.
        """
        touched: dict[Key, None] = {}
        for op, row in done:
            known = self._stacks.get(op)
            if known is None:
                continue
            touched.update(dict.fromkeys(self._stacks.linked(known.key).keys))
            edit = self._stacks.take(op)
            seen = self._seen.pop(op, set())
            crossed = op in self._crossed
            self._crossed.discard(op)
            self._arriving.pop(edit.key, None)
            new = self.new_key(edit)
            if row is not None and new not in seen:
                touched[self._answered(edit, row, now, crossed=crossed)] = None
            left = new != edit.key or (edit.kind == "delete" and row is None)
            if left and edit.key not in seen:
                self._deleted(edit.key, now, crossed=crossed)
        return self._refresh(touched, [], want_changes)

    def expect(self, ids: Iterable[str]) -> None:
        """Note that rows whose keys the server generates are in flight (`inserted`)."""
        self._expected.update(ids)

    def expect_no_more(self, ids: Iterable[str]) -> None:
        """Note that they were inserted, or that no answer will arrive."""
        self._expected.difference_update(ids)
        if not self._expected:
            self._departed.clear()

    def inserted(
        self, rows: Iterable[Row], *, now: float, want_changes: bool = False
    ) -> Sequence[RowChange]:
        """Show rows that were inserted without a key, and so without an edit, as the server returned them.

        Parameters
        ----------
        rows
            Whole and typed.
        now : float
            Monotonic seconds.
        """
        touched: dict[Key, None] = {}
        for row in rows:
            key = self.schema.key_of(row)
            if key in self or key in self._departed:
                continue  # its event arrived before, and perhaps later ones
            edit = Edit("", "insert", key, dict(row), {}, now)
            touched[self._answered(edit, row, now, crossed=False)] = None
        return self._refresh(touched, [], want_changes)

    def drop_shields(self, now: float) -> None:
        """Stop holding back events for writes that were answered long ago.

        An event that has not arrived by now was lost, and the next one is accepted. Shields that wait for
        a read stay.
        """
        for key in list(self._shielded):
            shield = self._beneath[key].shield
            if shield is not None and shield.unsure:
                continue
            if shield is None or now >= shield.since + SHIELD_SECONDS:
                self._beneath[key].shield = None
                del self._shielded[key]
                self._forget([key])

    def new_key(self, edit: Edit) -> Key:
        """Return the row's key after the edit."""
        return self._stacks.new_key(edit)

    # --- inside ----------------------------------------------------------------------------------

    def _keep_below(
        self, keys: Iterable[Key], seen: Mapping[Key, Row] = MappingProxyType({})
    ) -> None:
        new = [key for key in keys if key not in self._beneath]
        unseen = [key for key in new if key not in seen]
        rows = self.rows.gather(unseen) if unseen else {}
        for key in new:
            row = dict(seen[key]) if key in seen else rows[key]
            self._beneath[key] = _Beneath(row)
            if row is not None:
                self._shown[key] = row

    def _expect(self, edit: Edit) -> None:
        """Watch for the row that an insert in flight creates."""
        if edit.sent and edit.kind == "insert" and self._beneath[edit.key].row is None:
            self._arriving[edit.key] = None
        elif edit.kind == "insert":
            self._arriving.pop(edit.key, None)

    def _deleted(self, key: Key, now: float, *, crossed: bool) -> None:
        below = self._beneath.get(key)
        if below is not None and below.row is not None:
            version = self.strategies.time_of(below.row)
            below.last, below.row = below.row, None
            self._note_answer(Delete(key))
            self._shield(key, _Shield(None, version, now))
            if crossed:
                self._suspect(key)

    def _note_answer(self, op: Op) -> None:
        if self.noted is not None:
            self.noted.append(op)
        if self.heard is not None:
            self.answers.append(op)

    def _shield(self, key: Key, shield: _Shield) -> None:
        self._beneath[key].shield = shield
        self._shielded[key] = None

    def _answered(self, edit: Edit, row: Row, now: float, *, crossed: bool) -> Key:
        key = self.schema.key_of(row)
        self._keep_below([key])
        below = self._beneath[key]
        before = below.row if below.row is not None else self._beneath[edit.key].row
        full = {**dict.fromkeys(self.schema.names), **(before or {})}
        full.update({name: value for name, value in row.items() if name in full})
        written = {name: full[name] for name in edit.values if name in full}
        version = self.strategies.time_of(full)
        if below.row is not None:
            known = self.strategies.time_of(below.row)
            later = version is not None and known is not None and known > version
            if later or (written and not differs(written, below.row)):
                return key  # its event arrived before, and perhaps later ones
            earlier = version is not None and known is not None and known < version
            if crossed and written and not earlier:
                self._shield(key, _Shield(written, version, now, unsure=True))
                self._suspect(key)
                return key
        if self._matches is not None and self._matches(full) is False:
            below.row, below.last = None, full
            self._note_answer(Delete(key))
            if edit.kind != "insert":  # a row that was never in the filter sends no event
                self._shield(key, _Shield(written, version, now))
            return key
        deleted = crossed and below.row is None
        below.row = full
        self._note_answer(Upsert(key, full))
        if written:
            self._shield(key, _Shield(written, version, now, unsure=deleted))
        if deleted:
            self._suspect(key)
        return key

    def _server_says(self, op: Op, below: _Beneath) -> None:
        if isinstance(op, Delete):
            if below.shield is not None and below.row is not None:
                return  # about the previous row; if it is later than the write, a read finds out
            row = None
        elif below.shield is not None and self._older(op.row, below.shield):
            return
        else:
            blank = {**dict.fromkeys(self.schema.names), **self.schema.values_of(op.key)}
            row = {**blank, **(below.row or below.last or {}), **op.row}
        self._set_server(op.key, below, row)

    def _set_server(self, key: Key, below: _Beneath, row: dict[str, Any] | None) -> None:
        if below.row is not None and row is None:
            below.last = below.row
        arriving = below.row is None and row is None and key in self._arriving
        below.row = row
        below.shield = None
        self._shielded.pop(key, None)
        if row is not None:
            self._arriving.pop(key, None)
        for edit in self._stacks.naming(key):
            if edit.sent and not arriving and self._is_effect(edit, key, row):
                self._seen.setdefault(edit.id, set()).add(key)
            elif edit.sent:
                self._crossed.add(edit.id)

    def _is_effect(self, edit: Edit, key: Key, row: Row | None) -> bool:
        """Return whether an incoming row is the effect of a write in flight, or later than it.

        A write is applied only to the values that it was based on (``outbox.decide``). So a row with other
        values came after it, if the write is answered with a row at all.
        """
        if row is None:  # under the new key, another row was deleted
            return key == edit.key
        if edit.kind == "delete" or self.new_key(edit) != key:
            return False
        plain = edit.kind == "insert" and not edit.upsert
        if plain or all(equal(v, row.get(n)) for n, v in edit.values.items()):
            return True
        return any(
            not equal(row.get(name), edit.base[name])
            for name in edit.values
            if name in edit.base and self.strategies.of(name) != "delta"
        )

    def _older(self, row: Row, shield: _Shield) -> bool:
        """Return whether an incoming row was committed before the write that ``shield`` stands for."""
        version = self.strategies.time_of(row)
        if version is not None and shield.version is not None and version != shield.version:
            return version < shield.version
        # Without a version (or with one that never changes), the write's own event is recognized by all of
        # its values; later commits come after it. A row that lacks some values is left to a read: it may be
        # part of what follows an event that was held back.
        seen = shield.seen
        return not seen or any(n not in row or not equal(row[n], seen[n]) for n in seen)

    def _compute(self, keys: Iterable[Key], edits: Sequence[Edit]) -> dict[Key, Row]:
        """Return the view of linked keys: the server's rows with the edits laid over, in order."""
        rows: dict[Key, Row] = {}
        for key in keys:
            below = self._beneath.get(key)
            if below is not None and below.row is not None:
                shield = below.shield
                written = shield.seen if shield is not None and shield.unsure else None
                rows[key] = {**below.row, **written} if written else below.row
        for edit in edits:
            row = rows.get(edit.key)
            new = self.new_key(edit)
            if edit.kind == "delete":
                rows.pop(edit.key, None)
            elif edit.kind == "insert":
                whole = {**dict.fromkeys(self.schema.names), **edit.values}
                rows[new] = whole if row is None else self._merged(edit, row)
            else:
                if row is None and edit.sent:
                    row = rows.get(new)  # the event of the new key arrived before the answer
                if row is not None:
                    rows.pop(edit.key, None)
                    rows[new] = self._merged(edit, row)
        return rows

    def _merged(self, edit: Edit, row: Row) -> Row:
        if edit.own_key:
            return row
        if edit.upsert:
            return {**row, **edit.values}
        if edit.kind == "insert":
            return {**row, **self._inserted(edit, row)}
        merged = dict(row)
        theirs_at = self.strategies.time_of(row)
        for column, mine in edit.values.items():
            strategy = self.strategies.of(column)
            if edit.sent and strategy == "delta":
                # The incoming value may be this very sum: adding it again would show it twice.
                merged[column] = mine
                continue
            theirs = row.get(column)
            merged[column] = merge_value(
                edit.base.get(column, theirs),
                mine,
                theirs,
                strategy,
                mine_at=edit.at,
                theirs_at=theirs_at,
                row=row,
            ).value
        return merged

    def _inserted(self, edit: Edit, row: Row) -> Row:
        """Return the values of an insert over a row with its key: the local ones until a person decides."""
        if self.strategies.asks_about_inserts:
            return edit.values
        return {c: merge_inserted(edit, c, row, self.strategies).value for c in edit.values}

    def _refresh(
        self, touched: Iterable[Key], through: list[Op], want_changes: bool
    ) -> Sequence[RowChange]:
        """Update the view of the touched rows and apply ``through``, as one change."""
        new: dict[Key, Row | None] = {}
        for key in touched:
            if key not in new:
                linked = self._stacks.linked(key)
                new.update(dict.fromkeys(linked.keys))
                new.update(self._compute(linked.keys, linked.edits))
        old = {key: shown for key in new if (shown := self._shown.pop(key, None)) is not None}
        self._shown.update({key: row for key, row in new.items() if row is not None})
        changes = between(old, new)
        ops: list[Op] = [*self._places_given_up(new), *map(self._operation, changes)]
        if through:
            changes = list(self.rows.apply([*ops, *through], want_changes=want_changes))
        elif ops:
            self.rows.apply(ops)
        self._forget(new)
        return changes if want_changes else []

    def _operation(self, change: RowChange) -> Op:
        """As `operation`; a row that only an edit hides keeps its position in case the edit is undone."""
        below = self._beneath.get(change.key)
        if change.new is not None or below is None or below.row is None:
            self._hidden.discard(change.key)
            return operation(change)
        self._hidden.add(change.key)
        return Delete(change.key, keeps_place=True)

    def _places_given_up(self, keys: Iterable[Key]) -> list[Op]:
        """Return deletes for hidden rows that the server has reported deleted meanwhile."""
        if not self._hidden:
            return []
        gone = [key for key in self._hidden.intersection(keys) if self._beneath[key].row is None]
        self._hidden.difference_update(gone)
        return [Delete(key) for key in gone]

    def _forget(self, keys: Iterable[Key]) -> None:
        """Forget the rows that neither an edit nor a shield concerns any more."""
        for key in keys:
            below = self._beneath.get(key)
            if below is not None and below.shield is None and not self._stacks.about(key):
                del self._beneath[key]
                self._shown.pop(key, None)

    def _loaded(
        self, changes: Sequence[RowChange], older: Sequence[_Shield], want_changes: bool
    ) -> Sequence[RowChange]:
        """Lay the pending edits over a table that was just read again."""
        self._shown.clear()
        self._hidden.clear()  # the rows that were read have their own positions
        for key, row in self.rows.gather(self._beneath).items():
            below = self._beneath[key]
            if row is not None:
                self._shown[key] = row
            if below.shield is None or any(below.shield is one for one in older):
                self._set_server(key, below, row)
        overlaid = self._refresh(list(self._beneath), [], want_changes)
        return net([*changes, *overlaid]) if want_changes else []


class _Load:
    """A whole table that is being collected; pending edits are laid over it when it is committed."""

    def __init__(self, overlay: Overlay, inner: Load) -> None:
        self._overlay = overlay
        self._inner = inner
        shields = (overlay._beneath[key].shield for key in overlay._shielded)
        self._older = [shield for shield in shields if shield is not None]
        """Shields of writes answered before the first page was requested: the pages contain their effect."""

    def extend(self, page: Sequence[WireRow], keys: list[Key] | None = None) -> None:
        self._inner.extend(page, keys)

    def prepare(self, page: Sequence[WireRow], keys: list[Key] | None = None) -> Callable[[], None]:
        return self._inner.prepare(page, keys)

    def __len__(self) -> int:
        return len(self._inner)

    def commit(self, ops: Sequence[Op] = (), *, want_changes: bool = False) -> Sequence[RowChange]:
        changes = self._inner.commit(ops, want_changes=want_changes)
        return self._overlay._loaded(changes, self._older, want_changes)
