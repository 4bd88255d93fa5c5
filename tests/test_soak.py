"""Wall time of thousands of launches of one backward, each compared with the first.

Run it with `python -m pytest -m soak`.
"""

import pytest

from maskbench.suite.cell import CheckedCell
from maskbench.suite.soak import run_soak

pytestmark = pytest.mark.soak


def test_soak_backward(backend: str, checked_cell: CheckedCell) -> None:
    run_soak(checked_cell)
