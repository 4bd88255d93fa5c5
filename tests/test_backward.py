"""Backward: device time of dq, dk, dv = grad(out, (q, k, v), dout), without the forward."""

from maskbench.suite.cell import Cell


# flops and bytes: maskbench/suite/work.py
def test_backward(backend: str, cell: Cell) -> None:
    cell.check_and_time()
