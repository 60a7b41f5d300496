"""What the tests of data share: how a refusal looks, and properties that see the same examples every time."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from tightbound.errors import DataError, TightboundError

REPEATABLE = settings(
    deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
EIGHTHS = st.integers(-800, 800).map(lambda number: number / 8)  # exact, and never too close together to be refused


@contextmanager
def refused(*words: str, error: type[TightboundError] = DataError) -> Iterator[None]:
    """The block raises ``error``, and its message holds all of the words."""
    with pytest.raises(error) as caught:
        yield
    missing = [word for word in words if word not in str(caught.value)]
    assert not missing, f"{missing} not in: {caught.value}"
