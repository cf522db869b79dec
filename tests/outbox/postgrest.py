"""A table behind PostgREST as a dict, for laws: requests are calls, and all failures can occur.

It takes what ``outbox.decide`` makes of operations on one table ``t (id int8 primary key, a text,
n int8, up int8 references t)``. A *fault* says what happens to a request.
"""

from __future__ import annotations

import asyncio
import copy
import re
from collections.abc import Iterable
from typing import Any, Literal, TypeAlias, get_args

from notebook_rt.edits.ops import Json
from notebook_rt.edits.statements import MANY
from notebook_rt.model.http import Answer, Request
from notebook_rt.model.rows import Delete, Op, Upsert
from notebook_rt.model.types import Column, Schema
from notebook_rt.net.http import CancelledUnsentError, NoAnswerError

Fault: TypeAlias = Literal[
    "", "lost", "away", "silent", "503", "503 after", "429", "401", "ended", "ended after"
]
"""The answer is lost; nothing arrives; something may have arrived, and has not; the server or a gateway
fails, before or after the write; it is asked too often; it refuses the login; the kernel ends while it
connects, or after the write."""
FAULTS: tuple[Fault, ...] = get_args(Fault)

SCHEMA = Schema(
    (Column("id", "int8"), Column("a", "text"), Column("n", "int8"), Column("up", "int8")), ("id",)
)
BAD = "bad"
"""A value of ``a`` that a constraint refuses."""


class Table:
    """The rows, the events of their changes in order, and the faults that are still to come.

    ``many``: it has the function for many operations.
    """

    def __init__(self, keys: Iterable[int], *, many: bool = False) -> None:
        self.many = many
        self.requests = 0
        self.rows: dict[int, dict[str, Any]] = {
            key: {"id": key, "a": "a", "n": 0, "up": None} for key in keys
        }
        self.events: list[Op] = []
        self.faults: list[Fault] = []
        self.sequence = 99
        """The last key that was made here; what is refused uses one up, too."""
        self.refused: list[str] = []
        """The codes of what was refused, but for `BAD` values."""
        self._version = 100
        self._versions = dict.fromkeys(self.rows, 100)

    async def send(self, request: Request) -> Answer:
        self.requests += 1
        fault = self.faults.pop(0) if self.faults else ""
        if fault in ("away", "silent"):
            raise NoAnswerError("http://x", fault, sent=fault == "silent")
        if fault == "ended":
            raise CancelledUnsentError
        if fault in ("503", "429", "401"):
            return Answer(int(fault), retry_after=None if fault == "401" else 20.0)
        answer = self._answer(request)
        if fault == "ended after":
            raise asyncio.CancelledError
        if fault == "lost":
            raise NoAnswerError("http://x", fault, sent=True)
        return Answer(503) if fault else answer

    def put(self, old: int | None, row: dict[str, Any]) -> Answer | None:
        """Write a row, that of the key ``old`` or a new one; the answer that refuses it, if one does."""
        new = row["id"]
        if row["a"] == BAD:
            return Answer(400, {"code": "23514", "message": "a is bad"})
        if new != old and new in self.rows:
            return self._refuse("23505")
        if row["up"] is not None and row["up"] not in {*self.rows, new} - {old} | {new}:
            return self._refuse("23503")
        if old is not None and new != old:
            if self._referred(old):
                return self._refuse("23503")
            self.remove(old)
        self.rows[new] = row
        self._version += 1
        self._versions[new] = self._version
        self.events.append(Upsert(new, copy.deepcopy(row)))
        return None

    def remove(self, key: int) -> None:
        del self.rows[key]
        self.events.append(Delete(key))

    def _referred(self, key: int) -> bool:
        return any(row["up"] == key for k, row in self.rows.items() if k != key)

    def _refuse(self, code: str) -> Answer:
        self.refused.append(code)
        return Answer(409, {"code": code, "message": code})

    def _answer(self, request: Request) -> Answer:
        if request.path.endswith(f"/rpc/{MANY}") and self.many:
            results = [self._result(one) for one in request.body["p_ops"]]
            return Answer(200, {"version": 1, "results": results})
        if "/rpc/" in request.path:
            return Answer(404, {"code": "PGRST202"})
        if request.method == "POST":
            return self._insert(request.body, "merge-duplicates" in request.prefer)
        matching = self._matching(dict(request.params))
        if request.method == "GET":
            return Answer(200, [self._given(key) for key in matching])
        if request.method == "DELETE":
            if any(self._referred(key) for key in matching):
                return self._refuse("23503")
            rows = [self._given(key) for key in matching]
            for key in matching:
                self.remove(key)
            return Answer(200, rows)
        before = copy.deepcopy((self.rows, self.events, self._versions))
        for key in matching:
            refusal = self.put(key, {**self.rows[key], **request.body})
            if refusal is not None:
                self.rows, self.events, self._versions = before
                return refusal
        return Answer(200, [self._given(request.body.get("id", key)) for key in matching])

    def _result(self, one: Json) -> Json:
        """As ``notebook_rt_write_many`` says what became of an operation."""
        key = one["key"]["id"]
        there = self.rows.get(key)
        if there is None or any(there[c] != value for c, value in one["base"].items()):
            return {"row": None}
        given = self._given(key)
        if "set" in one:
            refusal = self.put(key, {**there, **one["set"]})
            given = self._given(one["set"].get("id", key)) if refusal is None else given
        elif self._referred(key):
            refusal = self._refuse("23503")
        else:
            refusal = self.remove(key)
        return {"row": given} if refusal is None else {"error": refusal.body}

    def _insert(self, body: Json, merges: bool) -> Answer:
        before = copy.deepcopy((self.rows, self.events, self._versions))
        made = []
        for row in body if isinstance(body, list) else [body]:
            if "id" not in row:
                self.sequence += 1
                row = {"id": self.sequence, **row}
            there = self.rows.get(row["id"])
            if there is not None and not merges:
                continue  # resolution=ignore-duplicates
            old = None if there is None else row["id"]
            refusal = self.put(old, {**(there or dict.fromkeys(SCHEMA.names)), **row})
            if refusal is not None:
                self.rows, self.events, self._versions = before
                return refusal
            made.append(row["id"])
        return Answer(201, [self._given(key) for key in made])

    def _given(self, key: int) -> dict[str, Any]:
        return {**self.rows[key], "xmin": str(self._versions[key])}

    def _matching(self, params: dict[str, str]) -> list[int]:
        either = re.findall(r"and\(([^()]*)\)", params.pop("or", "")) or [None]
        conditions = [f"{n}.{v}" for n, v in params.items() if n != "select"]
        found = []
        for key in self.rows:
            given = self._given(key)
            for one in either:
                terms = [*conditions, *(one.split(",") if one else ())]
                if all(_holds(given, term) for term in terms):
                    found.append(key)
                    break
        return found


def _holds(row: dict[str, Any], term: str) -> bool:
    column, operator, value = term.split(".", 2)
    there = row[column]
    if operator == "is":
        return there is None
    return there is not None and str(there) == value.strip('"')
