"""One state of a table as a file: Arrow's IPC format, mapped into memory when it is read.

The file consists of a first line, the columns as one record batch, and a *head* at the end: JSON with the
format's number, the identity, the schema, the mirror's state, and the checksums of everything before it.
Numbers are stored in the layout of a column, so a table that was read consists of the file's pages,
mapped privately: later writes to them reach neither the file nor another process.
"""

from __future__ import annotations

import json
import mmap
import os
import struct
import threading
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import IO, Any, Final

import msgspec
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from notebook_rt.disk.errors import RefusedFileError
from notebook_rt.disk.kept import Facts, Identity, Kept
from notebook_rt.disk.values import dump, load
from notebook_rt.model.types import Column, Schema
from notebook_rt.store.arrays import objects
from notebook_rt.store.column import Parts
from notebook_rt.store.columns import one_chunk

FORMAT: Final = 1
"""Increases with every change that an older version would misread."""
FIRST: Final = b"notebook_rt table\n".ljust(64, b"\0")
LAST: Final = b"nrt-kept"
TAIL: Final = struct.Struct("<IIQ8s")
"""The format, the head's checksum, its length, and ``LAST``."""
BLOCK: Final = 1 << 24
"""Number of bytes per checksum."""

ending = threading.Event()
"""Set when the process ends: files being written are then abandoned."""


def write(file: IO[bytes], kept: Kept, identity: Identity, generation: str) -> None:
    """Write a state to an empty file.

    Parameters
    ----------
    generation : str
        Names this file: its journal has the same generation.
    """
    sink = _Summed(file)
    sink.write(FIRST)
    fields, forms = _fields(kept)
    batch = pa.record_batch(fields)
    with pa.ipc.new_file(pa.PythonFile(sink, mode="w"), batch.schema) as writer:
        writer.write_batch(batch)
    head = {
        **msgspec.structs.asdict(identity),
        "generation": generation,
        "columns": [asdict(column) for column in kept.known.columns],
        "key": kept.known.key,
        "numeric": kept.known.numeric,
        "names": kept.names,
        "forms": forms,
        "rows": len(kept.versions),
        "facts": kept.facts.plain(),
        "length": sink.length,
        "sums": sink.finish(),
    }
    raw = json.dumps(head, ensure_ascii=True).encode()
    file.write(raw)
    file.write(TAIL.pack(FORMAT, zlib.crc32(raw), len(raw), LAST))


def read(file: IO[bytes], identity: Identity) -> tuple[Kept, str]:
    """Return the state in a file, without its batches, and its generation.

    Raises
    ------
    RefusedFileError
        If it is not a complete file of this format, or belongs to another table.
    """
    size = os.fstat(file.fileno()).st_size
    if size < len(FIRST) + TAIL.size:
        raise RefusedFileError("torn", "it is cut off")
    raw = _held(file, size)
    head = read_head(raw)
    if any(head[name] != value for name, value in msgspec.structs.asdict(identity).items()):
        raise RefusedFileError("foreign", "it is of another project, login or table")
    length, sums = head["length"], head["sums"]
    whole = memoryview(raw)
    if [zlib.crc32(whole[at : min(at + BLOCK, length)]) for at in range(0, length, BLOCK)] != sums:
        raise RefusedFileError("torn", "its checksum does not match")
    try:
        return _kept(raw, head), str(head["generation"])
    except (KeyError, TypeError, ValueError, pa.ArrowException) as error:
        raise RefusedFileError("torn", f"it does not describe a table: {error!r}") from error


def _held(file: IO[bytes], size: int) -> mmap.mmap | bytearray:
    """Return the file's bytes, writable; on Windows, where a mapped file cannot be replaced, a copy of
    them.
    """
    if os.name == "nt":
        return bytearray(file.read())
    return mmap.mmap(file.fileno(), size, access=mmap.ACCESS_COPY)


def read_head(raw: Any) -> dict[str, Any]:
    """Return the head of a file, given as its bytes or their mapping; checked against its own checksum.

    Raises
    ------
    RefusedFileError
        If it is not a head, or has another format.
    """
    size = len(raw)
    if size < len(FIRST) + TAIL.size:
        raise RefusedFileError("torn", "it is cut off")
    form, total, length, last = TAIL.unpack(raw[size - TAIL.size :])
    if last != LAST or raw[: len(FIRST)] != FIRST:
        raise RefusedFileError("torn", "it is not the file of a table, or it is cut off")
    if form > FORMAT:
        raise RefusedFileError("newer", f"its format is {form}, and this version knows {FORMAT}")
    text = raw[max(0, size - TAIL.size - length) : size - TAIL.size]
    if form != FORMAT or zlib.crc32(text) != total:
        raise RefusedFileError("torn", "the checksum of its head does not match")
    found: dict[str, Any] = json.loads(text)
    if found["length"] != size - TAIL.size - length:
        raise RefusedFileError("torn", "its length does not match")
    return found


class _Summed:
    """A file to write to, with a checksum of each block."""

    closed = False

    def __init__(self, file: IO[bytes]) -> None:
        self.length = 0
        self._file = file
        self._sums: list[int] = []
        self._sum = 0

    def write(self, raw: Any) -> int:
        if ending.is_set():
            raise OSError("Python is ending")
        given = memoryview(raw)
        written = self._file.write(given)
        at = 0
        while at < len(given):
            part = given[at : at + BLOCK - self.length % BLOCK]
            self._sum = zlib.crc32(part, self._sum)
            self.length += len(part)
            at += len(part)
            if not self.length % BLOCK:
                self._sums.append(self._sum)
                self._sum = 0
        return written

    def finish(self) -> list[int]:
        """Return the checksums of everything written."""
        return [*self._sums, self._sum] if self.length % BLOCK else list(self._sums)

    def flush(self) -> None:
        self._file.flush()

    def tell(self) -> int:
        return self.length


def _fields(kept: Kept) -> tuple[dict[str, pa.Array], list[str]]:
    fields: dict[str, pa.Array] = {"xmin": _numbers(kept.versions)}
    if kept.ranks is not None:
        fields["rank"] = _numbers(kept.ranks)
    forms = []
    for place, name in enumerate(kept.names):
        parts = kept.columns[name]
        data = parts.data
        if isinstance(data, pa.ChunkedArray):
            form = "text"
            fields[f"c{place}"] = one_chunk(data)
        elif data.dtype == object:
            form = "object"
            raw = [None if value is None else dump(value) for value in data.tolist()]
            fields[f"c{place}"] = pa.array(raw, pa.large_binary())
        else:
            form = data.dtype.str
            fields[f"c{place}"] = _numbers(data)
            if parts.mask is not None:
                fields[f"m{place}"] = _numbers(parts.mask)
        forms.append(form)
    return fields, forms


def _numbers(values: NDArray[Any]) -> pa.Array:
    """Return numbers as an Arrow array, without a copy; booleans as one byte each."""
    held = values.view("u1") if values.dtype == bool else values
    of = pa.from_numpy_dtype(held.dtype)
    return pa.Array.from_buffers(of, len(held), [None, pa.py_buffer(held)])


def _column(told: Any) -> Column:
    """Return a column; JSON has turned its tuples into lists."""
    digits = told.get("digits")  # an older file does not have them
    choices, digits = tuple(told["choices"]), digits and tuple(digits)
    return Column(**{**told, "choices": choices, "digits": digits})


def _kept(raw: mmap.mmap | bytearray, head: Mapping[str, Any]) -> Kept:
    columns = tuple(map(_column, head["columns"]))
    known = Schema(columns, tuple(head["key"]), head["numeric"])
    names = tuple(head["names"])
    whole = pa.py_buffer(raw)
    body = whole.slice(len(FIRST), head["length"] - len(FIRST))
    batch = pa.ipc.open_file(pa.BufferReader(body)).get_batch(0)

    def mapped(name: str, of: str) -> NDArray[Any]:
        """Return the numbers of a field, over the mapping: Arrow's view would not be writable."""
        held = batch.column(name).buffers()[1]
        at = held.address - whole.address if held is not None and len(batch.column(name)) else 0
        return np.frombuffer(raw, of, len(batch.column(name)), at)

    found = {}
    for place, (name, form) in enumerate(zip(names, head["forms"], strict=True)):
        if form == "text":
            found[name] = Parts(pa.chunked_array([batch.column(f"c{place}")]))
        elif form == "object":
            values = batch.column(f"c{place}").to_pylist()
            found[name] = Parts(objects([None if one is None else load(one) for one in values]))
        else:
            masked = f"m{place}" in batch.schema.names
            mask = mapped(f"m{place}", "?") if masked else None
            found[name] = Parts(mapped(f"c{place}", form), mask)
    ranks = mapped("rank", "<i8") if "rank" in batch.schema.names else None
    if not _agree(head["rows"], batch.num_rows, known, names):
        raise ValueError("its parts do not agree")
    return Kept(known, names, found, mapped("xmin", "<i8"), Facts.read(head["facts"]), ranks)


def _agree(rows: int, found: int, known: Schema, names: Sequence[str]) -> bool:
    return rows == found and {*known.key} <= {*names} <= {*known.names}
