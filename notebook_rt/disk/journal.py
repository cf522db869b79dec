"""Changes since a snapshot, as a file that grows by one record per batch.

Each record's checksum continues that of the previous one, and the first that of the snapshot's
generation. So reading returns the batches from the first on, up to where the file was truncated or
changed; a record of another file, or one at another position, ends it.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from typing import Final

from notebook_rt.disk.kept import Batch, Facts
from notebook_rt.disk.values import dump, dump_key, dump_ops, key_of, load, load_ops
from notebook_rt.model.types import Schema

MAGIC: Final = b"nrt-jrnl"
_HEAD: Final = struct.Struct("<8sI32sI")
"""The file's kind, the format, the generation, and their checksum."""
_RECORD: Final = struct.Struct("<II")
"""A record's length and checksum."""


def begin(generation: str, form: int) -> tuple[bytes, int]:
    """Return the first bytes of a snapshot's journal, and the checksum that its first record continues."""
    named = generation.encode().ljust(32, b"\0")
    total = zlib.crc32(named, form)
    return _HEAD.pack(MAGIC, form, named, total), total


def record(batch: Batch, schema: Schema, total: int) -> tuple[bytes, int]:
    """Return a batch as bytes, after a record with the checksum ``total``, and its own checksum."""
    versions = [[dump_key(key, schema), xmin] for key, xmin in batch.versions.items()]
    told = [batch.facts.plain(), dump_ops(batch.ops, schema), versions]
    if batch.ranked is not None:
        told.append([dump_key(key, schema) for key in batch.ranked])
    return framed(dump(told), total)


def framed(body: bytes, total: int) -> tuple[bytes, int]:
    """Return a record of any body, after one with the checksum ``total``, and its own checksum."""
    total = zlib.crc32(body, total)
    return _RECORD.pack(len(body), total) + body, total


def batches(raw: bytes, schema: Schema, generation: str, form: int) -> Iterator[Batch]:
    """Yield the batches of a journal's bytes; none if it belongs to another snapshot."""
    for body, _ in bodies(raw, generation, form):
        try:
            facts, ops, versions, *more = load(body)
            found = Batch(
                load_ops(ops, schema),
                {key_of(key, schema): xmin for key, xmin in versions},
                Facts.read(facts),
                [key_of(key, schema) for key in more[0]] if more else None,
            )
        except (LookupError, TypeError, ValueError):
            return
        yield found


def bodies(raw: bytes, generation: str, form: int) -> Iterator[tuple[bytes, int]]:
    """Yield the bodies of a journal's records, each with its checksum, up to the first error."""
    head, total = begin(generation, form)
    if raw[: len(head)] != head:
        return
    at = len(head)
    while at + _RECORD.size <= len(raw):
        length, wanted = _RECORD.unpack_from(raw, at)
        at += _RECORD.size
        body = raw[at : at + length]
        total = zlib.crc32(body, total)
        if len(body) < length or total != wanted:
            return
        yield body, total
        at += length
