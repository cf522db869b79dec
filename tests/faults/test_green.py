"""Green is true: under each fault, at random moments, no longer than its documented bound."""

from __future__ import annotations

import pytest

from notebook_rt.local import LocalStack
from tests.faults.green import FAULTS, watch

pytestmark = [pytest.mark.slow, pytest.mark.nightly, pytest.mark.timeout(180)]


@pytest.mark.parametrize("name", FAULTS)
@pytest.mark.parametrize("seed", range(2))
def test_a_session_is_not_green_for_longer_than_its_bound(
    stack: LocalStack, name: str, seed: int
) -> None:
    assert not watch(stack, name, seed).findings()
