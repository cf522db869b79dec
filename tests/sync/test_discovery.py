"""What is learnt of a table from the API's own description."""

from __future__ import annotations

from typing import Any

import pytest

from notebook_rt.store.types import Column, Schema
from notebook_rt.sync.change import columns_differ
from notebook_rt.sync.discovery import Described, from_description

DESCRIPTION = {
    "definitions": {
        "t": {
            "type": "object",
            "required": ["id", "state"],
            "properties": {
                "id": {"format": "bigint", "type": "integer", "description": "Note:\nKey.<pk/>"},
                "small": {"format": "int32", "type": "integer"},
                "large": {"format": "int64", "type": "integer", "default": 0},
                "state": {"format": "public.state", "type": "string", "enum": ["open", "held"]},
                "states": {"format": "public.state[]", "type": "array"},
            },
        }
    }
}


def test_types_key_not_null_and_labels_are_learnt() -> None:
    found = from_description(DESCRIPTION, "t")
    assert found.key == ("id",)
    assert found.columns == (
        Column("id", "int8", nullable=False),
        Column("small", "int4"),
        Column("large", "int8", filled=True),
        Column("state", "state", nullable=False, choices=("open", "held")),
        Column("states", "_state"),
    )


def test_a_description_that_does_not_say_what_is_required_refuses_nothing() -> None:
    described: dict[str, Any] = {"definitions": {"t": {"properties": {"id": {"format": "uuid"}}}}}
    (column,) = from_description(described, "t").columns
    assert column.refusal(None) is None
    assert column.refusal("x") is None


@pytest.mark.parametrize("description", [None, [], {}, {"definitions": []}, {"definitions": {}}])
def test_what_is_no_description_teaches_nothing(description: Any) -> None:
    assert from_description(description, "t") == Described()


def test_a_projection_keeps_what_the_columns_may_hold() -> None:
    found = from_description(DESCRIPTION, "t")
    kept = Schema(found.columns, found.key).project(["state"])
    assert kept.column("state").choices == ("open", "held")
    assert not kept.column("id").nullable


@pytest.mark.parametrize(
    ("told", "differ"),
    [
        ([Column("id", "int8"), Column("size", "positive"), Column("mood", "mood")], False),
        ([Column("id", "int8"), Column("size", "text"), Column("mood", "mood")], True),
        ([Column("id", "int8"), Column("size", "int4")], True),
    ],
)
def test_a_domain_named_in_a_change_is_the_type_below_it(told: list[Column], differ: bool) -> None:
    known = Schema((Column("id", "int8"), Column("size", "int4"), Column("mood", "mood")), ("id",))
    assert columns_differ(tuple(told), known) is differ
