"""Compare a whole table in few requests, if the server has our SQL (promise 4, PERFORMANCE 4).

Both sides hash each row's key with its version (``xmin``) as the seed, with PostgreSQL's own hash of the
key's type (integers, uuid, text), and combine the hashes by bucket, independently of the order. Buckets with
equal hashes are equal; for the others, the keys and versions are compared, and differing rows are read. A
large table is hashed by ranges of its key, one request after another, so that none reaches the statement
timeout; their buckets are combined. ``audit.sql`` contains the functions, ``notebook-rt doctor --sql`` prints
them; without them, keys and versions are read in pages.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any, Final, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

from notebook_rt.errors import ProtocolError
from notebook_rt.model.filters import Condition
from notebook_rt.model.rows import Key
from notebook_rt.model.types import canonical, decoder, kind
from notebook_rt.sync.events import OPTIONAL_SQL_SCHEMA, Query
from notebook_rt.sync.table.flows import Ahead, Ask, ReadRefusedError
from notebook_rt.sync.table.horizon import Read
from notebook_rt.sync.table.replica import Replica
from notebook_rt.sync.table.versions import Versions

BUCKETS: Final = 1024
"""Number of buckets, a power of two; with a million rows, each has about a thousand."""
FINE_BUCKETS: Final = 4096
"""The same if a large table probably differs: a longer answer for all rows, but fewer keys to compare."""
HASHED: Final = frozenset(("uuid", "text", "varchar"))
"""The key types that are hashed, in addition to integers."""
CHUNK: Final = 16_384
"""Number of keys hashed at a time, so that intermediate values stay in the processor's cache."""
DIGEST_ROWS: Final = 500_000
"""Initial number of rows hashed in one request: 0.2 s on an idle server."""
SKIP_MOST: Final = 20_000
"""Maximum number of rows of unknown version; a digest omits them, and they are read by key."""

U32: Final = np.uint32
Words = NDArray[np.uint32]


def hash_int8(values: NDArray[np.int64], seeds: NDArray[np.int64]) -> NDArray[np.uint64]:
    """Compute PostgreSQL's ``hashint8extended(value, seed)`` for whole columns."""
    raw = values.view(np.uint64)
    low, high = raw.astype(U32), (raw >> np.uint64(32)).astype(U32)
    word = low ^ np.where(values >= 0, high, ~high)
    a, b, c = _start(4, seeds)
    return _joined(*_final(a + word, b, c))


def hash_bytes(values: NDArray[np.uint8], seeds: NDArray[np.int64]) -> NDArray[np.uint64]:
    """Compute PostgreSQL's ``hash_bytes_extended`` for rows with the same number of bytes.

    ``uuid_hash_extended`` applies it to the 16 bytes, ``hashtextextended`` to the UTF-8 text.
    """
    count, length = values.shape
    whole = length // 12 * 12
    padded = np.zeros((count, whole + 12), np.uint8)
    padded[:, :length] = values
    words = padded.view("<u4").astype(U32, copy=False)
    a, b, c = _start(length, seeds)
    for place in range(0, whole // 4, 3):
        a, b, c = _mix(a + words[:, place], b + words[:, place + 1], c + words[:, place + 2])
    rest = words[:, whole // 4 :]  # the lowest byte of c is reserved for the length
    return _joined(*_final(a + rest[:, 0], b + rest[:, 1], c + (rest[:, 2] << U32(8))))


def _start(length: int, seeds: NDArray[np.int64]) -> tuple[Words, Words, Words]:
    seed = seeds.view(np.uint64)
    start = U32((0x9E3779B9 + length + 3923095) & 0xFFFFFFFF)
    a, b, c = (np.full(len(seeds), start, U32) for _ in range(3))
    if not seeds.any():
        return a, b, c
    mixed = _mix(a + (seed >> np.uint64(32)).astype(U32), b + seed.astype(U32), c)
    plain, seeded = (a, b, c), seeds != 0
    a, b, c = (np.where(seeded, m, p) for m, p in zip(mixed, plain, strict=True))
    return a, b, c


def _joined(high: Words, low: Words) -> NDArray[np.uint64]:
    return (high.astype(np.uint64) << np.uint64(32)) | low.astype(np.uint64)


Hasher: TypeAlias = Callable[[NDArray[np.int64]], NDArray[np.uint64]]
"""Maps seeds to the hashes of the same keys."""


def hasher(pg_type: str, keys: Sequence[Key] | NDArray[np.int64]) -> Hasher:
    """Return the server's hash function for ``keys`` of a column of ``pg_type``, one of ``HASHED``."""
    if kind(pg_type) == "int":
        values = np.asarray(keys, np.int64)
        parts = [slice(at, at + CHUNK) for at in range(0, max(len(values), 1), CHUNK)]
        return lambda seeds: np.concatenate([hash_int8(values[p], seeds[p]) for p in parts])
    texts = cast("Sequence[str]", keys)
    if canonical(pg_type) == "uuid":
        raw = bytes.fromhex("".join(texts).replace("-", ""))
        matrix = np.frombuffer(raw, np.uint8).reshape(-1, 16)
        return lambda seeds: hash_bytes(matrix, seeds)
    encoded = [text.encode() for text in texts]
    lengths = np.fromiter(map(len, encoded), np.int64, len(encoded))
    groups = []
    for length in np.unique(lengths).tolist():
        places = np.flatnonzero(lengths == length)
        raw = b"".join(encoded[place] for place in places.tolist())
        groups.append((places, np.frombuffer(raw, np.uint8).reshape(len(places), length)))

    def by_length(seeds: NDArray[np.int64]) -> NDArray[np.uint64]:
        hashes = np.zeros(len(encoded), np.uint64)
        for places, rows in groups:
            hashes[places] = hash_bytes(rows, seeds[places])
        return hashes

    return by_length


def _rot(x: Words, k: int) -> Words:
    return (x << U32(k)) | (x >> U32(32 - k))


def _mix(a: Words, b: Words, c: Words) -> tuple[Words, Words, Words]:
    """Bob Jenkins' lookup3, as in PostgreSQL's hashfn.c."""
    a = (a - c) ^ _rot(c, 4)
    c = c + b
    b = (b - a) ^ _rot(a, 6)
    a = a + c
    c = (c - b) ^ _rot(b, 8)
    b = b + a
    a = (a - c) ^ _rot(c, 16)
    c = c + b
    b = (b - a) ^ _rot(a, 19)
    a = a + c
    c = (c - b) ^ _rot(b, 4)
    return a, b + a, c


def _final(a: Words, b: Words, c: Words) -> tuple[Words, Words]:
    c = (c ^ b) - _rot(b, 14)
    a = (a ^ c) - _rot(c, 11)
    b = (b ^ a) - _rot(a, 25)
    c = (c ^ b) - _rot(b, 16)
    a = (a ^ c) - _rot(c, 4)
    b = (b ^ a) - _rot(a, 14)
    return b, (c ^ b) - _rot(b, 24)


class Hashes:
    """The hashes of the rows here, kept while a comparison may have to restart.

    A second confirmation of a join invalidates the server's hashes: a change committed between them and
    the confirmation may be in no message, and only another hash reveals it. The hashes computed here, from
    known rows and versions, remain valid.
    """

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Drop the hashes after a comparison, as they take more memory than the versions."""
        self._of: tuple[str, int] | None = None
        """The key's type and the number of buckets of the kept hashes; None if there are none."""
        self._keys: Sequence[Key] | NDArray[np.int64] = []
        self._xmins = np.zeros(0, np.int64)
        self._buckets = np.zeros(0, np.int64)
        self._digests = np.zeros(0, np.uint64)

    def of(
        self, versions: Versions, pg_type: str, number: int
    ) -> tuple[Sequence[Key] | NDArray[np.int64], NDArray[np.int64], NDArray[np.uint64]]:
        """Return all keys, the bucket of each, and the digest of each bucket."""
        keys, xmins = versions.arrays()
        if self._of == (pg_type, number) and _alike(keys, self._keys):
            others = np.flatnonzero(xmins != self._xmins)
            if len(others):
                hashes = hasher(pg_type, _some(keys, others))
                buckets, digests = self._buckets[others], self._digests.copy()
                np.bitwise_xor.at(digests, buckets, hashes(self._xmins[others]))
                np.bitwise_xor.at(digests, buckets, hashes(xmins[others]))
                self._digests, self._xmins = digests, xmins.copy()
            return self._keys, self._buckets, self._digests
        hashes = hasher(pg_type, keys)
        self._buckets = (hashes(np.zeros_like(xmins)) & np.uint64(number - 1)).astype(np.int64)
        self._digests = np.zeros(number, np.uint64)
        np.bitwise_xor.at(self._digests, self._buckets, hashes(xmins))
        self._keys = keys.copy() if isinstance(keys, np.ndarray) else keys
        self._xmins, self._of = xmins.copy(), (pg_type, number)
        return self._keys, self._buckets, self._digests


def _alike(
    one: Sequence[Key] | NDArray[np.int64], other: Sequence[Key] | NDArray[np.int64]
) -> bool:
    if isinstance(one, np.ndarray) and isinstance(other, np.ndarray):
        return np.array_equal(one, other)
    return not (isinstance(one, np.ndarray) or isinstance(other, np.ndarray)) and one == other


def _some(
    keys: Sequence[Key] | NDArray[np.int64], places: NDArray[np.int64]
) -> Sequence[Key] | NDArray[np.int64]:
    if isinstance(keys, np.ndarray):
        return keys[places]
    return [keys[place] for place in places.tolist()]


class Digest:
    """One table's comparison by hash, in requests of about ``rows`` rows each.

    ``likely``: the table probably differs. ``hashes``: the hashes of a stopped comparison.
    """

    def __init__(
        self,
        replica: Replica,
        rows: int = DIGEST_ROWS,
        *,
        likely: bool = False,
        hashes: Hashes | None = None,
    ) -> None:
        self.replica = replica
        self._hashes = hashes or Hashes()
        self._rows = rows
        self._number = FINE_BUCKETS if likely and len(replica.rows) > DIGEST_ROWS else BUCKETS
        """Number of buckets."""
        self._keys: Sequence[Key] | NDArray[np.int64] = []
        self._buckets = np.zeros(0, np.int64)
        """The bucket of each key."""
        self._counts = np.zeros(self._number, np.int64)
        self._digests = np.zeros(self._number, np.uint64)

    @property
    def _pg_type(self) -> str:
        schema = self.replica.schema
        return schema.types[schema.key[0]]

    @property
    def possible(self) -> bool:
        """Return whether the key is one column that can be hashed, and most versions are known."""
        schema, replica = self.replica.schema, self.replica
        unknown = len(replica.rows) - len(replica.versions)
        pg_type = self._pg_type
        hashed = len(schema.key) == 1 and (kind(pg_type) == "int" or canonical(pg_type) in HASHED)
        return hashed and 0 <= unknown <= min(SKIP_MOST, len(replica.rows) // 5)

    def steps(
        self,
        unknown: Callable[[Key], None],
        gone: Callable[[Sequence[Key], Read], None],
        *,
        sure: bool = True,
    ) -> Generator[Ask, Sequence[Read], Sequence[Read]]:
        """Compare; report the keys whose rows must be read, and the deleted ones.

        Return the reads that together cover the whole table. ``sure``: the server has the functions;
        otherwise no row is hashed here before it has answered, as that takes a second for millions of rows.

        Raises
        ------
        ReadRefusedError
            If the server does not have the functions, or something else answers instead.
        """
        versions = self.replica.versions
        skip = versions.missing(self.replica.rows)
        left_out = {"skip": [str(key) for key in skip]}
        first, *others = ranges = self._ranges()
        query = self._call("nrt_digest", left_out, first)
        reads = [*(yield Ahead(query, self._digest) if sure else [query])]
        if not sure:
            self._digest()
        for one in others:
            reads += yield [self._call("nrt_digest", left_out, one)]
        keys, buckets = self._keys, self._buckets
        try:
            wanted = self._different([read.page.value for read in reads])
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise _no_answer("nrt_digest", error) from None
        for key in skip:
            unknown(key)
        if not wanted:
            return reads
        decode = decoder(self._pg_type)
        found: list[Key] = []
        versions_found: list[int] = []
        for one in ranges:
            (rows,) = yield [self._call("nrt_rows", {"wanted": wanted}, one)]
            try:
                found += map(decode, rows.page.value["keys"])
                versions_found += map(int, rows.page.value["versions"])
            except (KeyError, TypeError, ValueError) as error:
                raise _no_answer("nrt_rows", error) from None
        theirs = dict(zip(found, versions_found, strict=True))
        for key in versions.unlike(list(theirs), list(theirs.values())):
            unknown(key)
        if len(theirs) < len(found):  # several rows have one key: read and report them
            for key in [key for key, number in Counter(found).items() if number > 1]:
                unknown(key)
        here = np.flatnonzero(np.isin(buckets, wanted)).tolist()
        mine = keys[here].tolist() if isinstance(keys, np.ndarray) else [keys[at] for at in here]
        gone([key for key in mine if key not in theirs], rows)
        return reads

    def of_no_rows(self, key: Key) -> Query:
        """Return a query for the hash of no rows, which shows whether the server has the functions."""
        name = self.replica.schema.key[0]
        none = [Condition(name, operator, (str(key),)) for operator in ("gte", "lt")]
        return self._call("nrt_digest", {"skip": []}, none)

    def _ranges(self) -> list[list[Condition]]:
        """Yield the conditions of key ranges that together cover the whole table."""
        name = self.replica.schema.key[0]

        def limit(operator: str, key: Key) -> Condition:
            return Condition(name, operator, (str(key),))

        return [
            [
                *([] if low is None else [limit("gte", low)]),
                *([] if high is None else [limit("lt", high)]),
            ]
            for low, high in self.replica.divided(self._rows)
        ]

    def _digest(self) -> None:
        """Hash the rows here, while the server does the same."""
        self._keys, self._buckets, self._digests = self._hashes.of(
            self.replica.versions, self._pg_type, self._number
        )
        self._counts = np.bincount(self._buckets, minlength=self._number)

    def _different(self, answers: Sequence[Mapping[str, Any]]) -> list[int]:
        their_counts = np.zeros(self._number, np.int64)
        their_digests = np.zeros(self._number, np.uint64)
        for answer in answers:
            places = np.array(answer["buckets"], np.int64)  # each once
            their_counts[places] += np.array(answer["rows"], np.int64)
            hashes = np.array([int(h) for h in answer["digests"]], np.int64)
            their_digests[places] ^= hashes.view("u8")
        different = (self._counts != their_counts) | (self._digests != their_digests)
        return [int(bucket) for bucket in np.flatnonzero(different)]

    def _call(
        self, function: str, more: Mapping[str, Any], within: Sequence[Condition] = ()
    ) -> Query:
        spec = self.replica.spec
        table = {"source_schema": spec.schema, "source": spec.table}
        key = {
            "key": self.replica.schema.key[0],
            "conditions": [*spec.filter.to_audit(), *(one.to_audit() for one in within)],
            "buckets": self._number,
        }
        args = {**table, **key, **more}
        return Query((), rpc=function, rpc_schema=OPTIONAL_SQL_SCHEMA, args=args)


def is_digest(value: object) -> bool:
    """Return whether this is an answer of ``nrt_digest``."""
    return isinstance(value, Mapping) and {"buckets", "rows", "digests"} <= value.keys()


def _no_answer(function: str, error: Exception) -> ReadRefusedError:
    """Return the error for an answer that is not of our ``function``."""
    return ReadRefusedError(ProtocolError(f"{function} gave what it never gives: {error!r:.100}"))
