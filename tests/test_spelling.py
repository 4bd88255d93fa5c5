"""FlexAttention on one mask whose mask_mod is written in several ways (mask_mod_variants.py)."""

from maskbench.suite.cell import Cell


def test_spelling_forward(spelling: str, cell: Cell) -> None:
    cell.check_and_time()


def test_spelling_backward(spelling: str, cell: Cell) -> None:
    cell.check_and_time()
