"""Forward: device time of out = attention(q, k, v); no gradients are required."""

from maskbench.suite.cell import Cell


# flops and bytes: maskbench/suite/work.py
def test_forward(backend: str, cell: Cell) -> None:
    cell.check_and_time()
