"""Backward: device time of dq, dk, dv = grad(out, (q, k, v), dout), without the forward."""

from maskbench.suite.cell import Cell


# flops = 2.5 times the forward's: five matrix products (q @ k.T is recomputed) instead of two
def test_backward(backend: str, cell: Cell) -> None:
    cell.check_and_time()
