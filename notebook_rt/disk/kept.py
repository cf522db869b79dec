"""Stored data of a table: its identity, the mirror's state, its rows with their versions; and batches.

A ``Kept`` is one state of a table, a ``Batch`` the changes since the previous one. Both are values:
``snapshot.py`` and ``journal.py`` define how they are written.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from notebook_rt.model.rows import Key, Op
from notebook_rt.model.spec import TableSpec
from notebook_rt.model.types import Schema, kind
from notebook_rt.model.xmins import Xmins, integers, places
from notebook_rt.store.column import Parts
from notebook_rt.store.columns import of_parts
from notebook_rt.store.table import Table
from notebook_rt.sync.table.memory import Memory


class Identity(msgspec.Struct, frozen=True):
    """Identifies a table and its user: data of another identity is treated as missing."""

    project: str
    """The project's URL."""
    login: str
    """Two digests, of the user, and of the user with all claims of the token; never a key, a token or the
    login itself.
    """
    table: str
    """Schema and name."""
    asked: str
    """The complete request: filter, columns, order, ..."""

    @classmethod
    def of(cls, project: str, login: str, spec: TableSpec) -> Identity:
        """Return the identity of ``spec``'s table as ``login`` sees it (`Credentials.owner`: the user first).

        The rows are the same however their changes arrive.
        """
        project = project.rstrip("/")
        user, _, _ = login.partition("\n")
        digests = [
            hashlib.sha256(f"{project}\n{one}".encode()).hexdigest()[:24] for one in (user, login)
        ]
        return cls(
            project,
            "-".join(digests),
            f"{spec.schema}.{spec.table}",
            repr(replace(spec, source="changes")),
        )

    @property
    def user(self) -> str:
        """The part that the logins of one user share."""
        return self.login.partition("-")[0]


class Facts(msgspec.Struct, frozen=True):
    """State that changes with each batch, in addition to the rows."""

    as_of: float
    """When the rows were last known to match the server's: seconds since the epoch, by this machine."""
    memory: Memory
    """What the mirror knew of the server's clock."""

    def plain(self) -> list[Any]:
        """Return the facts in a form for JSON and MessagePack."""
        memory = self.memory
        known = [self.as_of, memory.since, memory.heard, memory.believed, memory.moved]
        return [*known, memory.epoch, memory.position]

    @classmethod
    def read(cls, told: Sequence[Any]) -> Facts:
        """Return the facts that `plain` returned.

        Raises
        ------
        ValueError
            If it has another form.
        """
        try:
            facts = msgspec.convert(told, _Facts)
        except msgspec.ValidationError as error:
            raise ValueError(f"no facts: {error}") from error
        as_of, *memory = msgspec.structs.astuple(facts)
        return cls(as_of, Memory(*memory))


class _Facts(msgspec.Struct, array_like=True):
    """The form that `Facts.plain` writes; earlier versions wrote fewer fields."""

    as_of: float
    since: float | None
    heard: float | None
    believed: bool
    moved: bool
    epoch: str = ""
    position: str = ""


class Batch(msgspec.Struct, frozen=True):
    """Operations on the rows, in order, and the known versions of their keys after them."""

    ops: Sequence[Op]
    versions: Mapping[Key, int]
    facts: Facts
    ranked: Sequence[Key] | None = None
    """The keys in an order that only the server knows, if it was reported again."""


class Kept(msgspec.Struct, frozen=True, eq=False):
    """One state of a table."""

    known: Schema
    """All columns of the server's table."""
    names: tuple[str, ...]
    """The stored columns, including the key."""
    columns: Mapping[str, Parts]
    versions: NDArray[np.int64]
    """Each row's ``xmin``; -1: unknown."""
    facts: Facts
    ranks: NDArray[np.int64] | None = None
    """Each row's position in an order that only the server knows; -1: none."""
    batches: Sequence[Batch] = ()
    """Changes since then, oldest first."""

    @property
    def schema(self) -> Schema:
        """The stored columns."""
        return self.known.project(self.names)

    @property
    def latest(self) -> Facts:
        """The facts after all batches."""
        return self.batches[-1].facts if self.batches else self.facts

    @property
    def ranked(self) -> Sequence[Key] | None:
        """The keys in an order that only the server knows, if it was reported since the snapshot."""
        told = (one.ranked for one in reversed(self.batches) if one.ranked is not None)
        return next(told, None)

    def fill(self, table: Table) -> Versions:
        """Fill an empty ``table`` with this schema from the stored data; return its rows' versions.

        Raises
        ------
        ValueError
            If the columns do not form a table.
        """
        schema = self.schema
        versions = Versions(self, {name: self.columns[name].own() for name in schema.key})
        table.restore(self.columns)
        for batch in self.batches:
            table.apply(batch.ops)
        return versions


class Versions:
    """The versions of the rows of a table that was read; computed on demand.

    A million of them take longer than the table itself.
    """

    def __init__(self, kept: Kept, keys: Mapping[str, Parts]) -> None:
        self._kept = kept
        self._keys = keys

    def keys(self) -> list[Key]:
        """Return the keys of the snapshot's rows, in their order."""
        return keys_of(self._kept.schema, self._keys)

    def by_key(self) -> Xmins:
        """Return the known versions; for rows changed since the snapshot, only those in the batches."""
        kept = self._kept
        later: dict[Key, int] = {}
        for batch in kept.batches:
            for op in batch.ops:
                later[op.key] = -1
            later.update(batch.versions)
        known = {key: xmin for key, xmin in later.items() if xmin >= 0}
        ints, changed = integers_of(kept.schema, self._keys), integers(later)
        if ints is None or changed is None:
            pairs = zip(self.keys(), kept.versions.tolist(), strict=True)
            found = {key: xmin for key, xmin in pairs if xmin >= 0 and key not in later}
            return Xmins.of(found | known)
        order = np.argsort(ints, kind="stable")  # fast if most are in order
        ints, values = ints[order], kept.versions[order]
        at = places(ints, changed)
        values[at[at >= 0]] = -1
        return Xmins(ints, values, known)


def integers_of(schema: Schema, columns: Mapping[str, Parts]) -> NDArray[np.int64] | None:
    """Return the keys of rows whose columns hold these parts, if they are one column of integers."""
    if len(schema.key) != 1 or kind(schema.types[schema.key[0]]) != "int":
        return None
    data = columns[schema.key[0]].data
    whole = isinstance(data, np.ndarray) and data.dtype.kind == "i"
    return data.astype(np.int64) if whole else None


def keys_of(schema: Schema, columns: Mapping[str, Parts]) -> list[Key]:
    """Return the keys of rows whose columns, including the key's, hold these parts."""
    held = ((name, columns[name].own()) for name in schema.key)
    return schema.keys_in(
        [
            of_parts(parts, schema.types[name], None, schema.numeric).everything()
            for name, parts in held
        ]
    )
