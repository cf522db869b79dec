"""Keys drawn from the server's sequences: each is used once, and many inserts take few requests."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from notebook_rt.errors import (
    ClosedError,
    MissingTableError,
    PermissionDeniedError,
    RefusedError,
    UnreachableError,
)
from notebook_rt.outbox.key_cache import KeyCache, NoKeyDrawnError
from notebook_rt.sync.events import Query

COLUMN = ("public", "notes", "id")


class Server:
    """The server's side."""

    def __init__(self) -> None:
        self.last = 0
        self.asked: list[int] = []
        self.error: Exception | None = None

    def __call__(self, query: Query) -> Sequence[int]:
        if self.error is not None:
            raise self.error
        assert query.args is not None
        number = query.args["p_count"]
        self.asked.append(number)
        self.last += number
        return range(self.last - number + 1, self.last + 1)


def test_each_key_is_given_once_whoever_asks_and_many_are_few_requests() -> None:
    server = Server()
    spare = KeyCache(server)
    with ThreadPoolExecutor(4) as threads:
        taken = list(threads.map(lambda _: spare.take(COLUMN), range(5000)))
    assert sorted(taken) == list(range(1, 5001))
    assert server.asked[:4] == [16, 64, 256, 1024]
    assert len(server.asked) == 8
    assert spare.known == {COLUMN: True}


def test_columns_have_sequences_of_their_own() -> None:
    spare = KeyCache(Server())
    assert spare.take(COLUMN) == 1
    assert spare.take(("public", "others", "id")) == 17
    assert spare.take(COLUMN) == 2


@pytest.mark.parametrize(
    ("error", "words", "known"),
    [
        (MissingTableError("public", "notebook_rt_keys"), "doctor --sql", True),
        (RefusedError("POST", 400, "NRT03", 'it is "generated always"'), "generated always", True),
        (RefusedError("POST", 400, "NRT02", "no sequence makes it"), "no sequence makes it", False),
        (PermissionDeniedError("public", "notebook_rt_keys", reason="not you"), "^not you$", False),
        (UnreachableError("http://x", "no answer"), "none is in reserve", None),
    ],
)
def test_what_gives_no_key_says_why_and_is_asked_again(
    error: Exception, words: str, known: bool | None
) -> None:
    server = Server()
    spare = KeyCache(server)
    server.error = error
    with pytest.raises(NoKeyDrawnError, match=words):
        spare.take(COLUMN)
    assert spare.known.get(COLUMN) is known
    server.error = None
    assert spare.take(COLUMN) == 1
    server.error = error
    assert spare.take(COLUMN) == 2  # from those in reserve
    assert spare.known == {COLUMN: True}


def test_a_session_that_is_closed_meanwhile_says_so() -> None:
    server = Server()
    server.error = ClosedError("this session")
    with pytest.raises(ClosedError):
        KeyCache(server).take(COLUMN)


@pytest.mark.parametrize("answer", [[], [{"id": 1}], ["1"], [True], [None]])
def test_what_is_no_key_is_taken_for_none(answer: list[object]) -> None:
    with pytest.raises(NoKeyDrawnError, match="gives no keys"):
        KeyCache(lambda query: answer).take(COLUMN)  # type: ignore[arg-type, return-value]  # a server may say what it likes


async def test_looking_draws_none() -> None:
    server, asked = Server(), []

    async def fetch(query: Query) -> None:
        asked.append(query)
        if server.error is not None:
            raise server.error

    spare = KeyCache(server)
    server.error = UnreachableError("http://x", "no answer")
    await spare.check(COLUMN, fetch)
    assert spare.known == {}
    server.error = None
    await spare.check(COLUMN, fetch)
    assert spare.known == {COLUMN: True}
    server.error = MissingTableError("public", "notebook_rt_keys")
    await spare.check(COLUMN, fetch)
    assert spare.known == {COLUMN: True}, "the server makes it as it inserts"
    assert [query.args and query.args["p_count"] for query in asked] == [0, 0, 0]
    assert server.asked == []
