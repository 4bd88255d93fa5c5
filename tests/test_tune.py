"""Searches FlexAttention's fastest options for each mask, and saves them in reports/tuned/.

The backend flex_tuned replays them. The fastest options of each mask are timed like any other cell.
"""

from collections.abc import Iterator

import pytest

from maskbench.suite.cell import Cell
from maskbench.suite.tuning.cell import tune
from maskbench.suite.tuning.searches import Searches
from maskbench.suite.tuning.session import start_searches

pytestmark = pytest.mark.tune


@pytest.fixture(scope="module")
def searches(request: pytest.FixtureRequest) -> Iterator[Searches]:
    """The workers that compile candidates; those of the next problems while one is timed."""
    with start_searches(request.session) as searches:
        yield searches


def test_tune_forward(tuned: str, cell: Cell, searches: Searches) -> None:
    tune(cell, searches)


def test_tune_backward(tuned: str, cell: Cell, searches: Searches) -> None:
    tune(cell, searches)
