"""The version of each row equals that of a dict, in any storage."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from notebook_rt.model.rows import Upsert
from notebook_rt.model.types import Column, Schema
from notebook_rt.model.xmins import Xmins, integers
from notebook_rt.sync.table import versions as module
from notebook_rt.sync.table.versions import Versions
from tests.laws import examples
from tests.sync.model import DictRows

KEYS = {
    "integers": st.integers(-5, 12) | st.sampled_from([-(2**63), 2**63 - 1]),
    "integers of any size": st.integers(-5, 5) | st.sampled_from([2**63, -(2**70)]),
    "text": st.sampled_from("abcdefgh"),
    "two columns": st.tuples(st.integers(0, 3), st.integers(0, 3)),
}
WORDS = st.sampled_from(["note", "not asked", "page", "forget", "arrays", "kept", "clear"])


@pytest.mark.parametrize("of", KEYS)
@given(data=st.data())
@settings(
    max_examples=examples(150),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_versions_are_as_a_dict_has_them(
    monkeypatch: pytest.MonkeyPatch, of: str, data: st.DataObject
) -> None:
    monkeypatch.setattr(module, "MANY", 3)
    monkeypatch.setattr(module, "FEW", 1)
    some = st.lists(KEYS[of], max_size=6, unique=True)
    versions, model = Versions(), dict[Any, int]()
    for word in data.draw(st.lists(WORDS, max_size=25)):
        keys = data.draw(some)
        xmin = data.draw(st.integers(3, 9))
        if word == "note":
            for key in keys:
                versions.note(key, str(xmin))
                model[key] = xmin
        elif word == "not asked":
            for key in keys:
                versions.note(key, None)
                model.pop(key, None)
        elif word == "page":
            versions.note_page(keys, [{"xmin": str(xmin)} for _ in keys])
            model.update(dict.fromkeys(keys, xmin))
        elif word == "forget":
            versions.forget(keys)
            for key in keys:
                model.pop(key, None)
        elif word == "kept":
            kept, versions = versions.known(), Versions()
            versions.resume(kept)
        elif word == "clear":
            versions.clear()
            model.clear()
        found, xmins = versions.arrays()
        asked = data.draw(some)
        page = [{"xmin": str(xmin)} for _ in asked]
        listed = found.tolist() if isinstance(found, np.ndarray) else found
        assert dict(zip(listed, xmins.tolist(), strict=True)) == model
        assert len(versions) == len(model)
        assert versions.of(asked) == {key: model[key] for key in asked if key in model}
        assert versions.without(asked) == [key for key in asked if key not in model]
        assert versions.differing(asked, page) == [k for k in asked if model.get(k) != xmin]
        assert all((key in versions) == (key in model) for key in asked)
        assert all(versions.is_same(key, xmin) == (model.get(key) == xmin) for key in asked)
        ints = integers(asked)
        if ints is not None:
            assert versions.known().column(ints).tolist() == [model.get(key, -1) for key in asked]
        rows = DictRows(Schema((Column("id", "int8"),), ("id",)))
        rows.apply([Upsert(key, {"id": key}) for key in asked])
        assert set(versions.missing(rows)) == set(asked) - model.keys()


def test_what_was_taken_of_them_stays_as_it_was() -> None:
    """They are written to the disk on another thread, and a comparison goes on from them."""
    versions = Versions()
    versions.resume(Xmins(np.arange(9), np.full(9, 5), {}))
    kept, (ints, xmins) = versions.known(), versions.arrays()
    versions.forget([3])
    versions.note(20, "6")
    assert kept.gather([3, 20]) == [5, None]
    assert ints.tolist() == list(range(9))
    assert set(xmins.tolist()) == {5}
