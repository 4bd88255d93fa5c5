"""Forward: device time of out = attention(q, k, v); no gradients are required."""

from maskbench.suite.cell import Cell


# flops = 4 * area * heads * head_dim: 2 for q @ k.T and 2 for p @ v
def test_forward(backend: str, cell: Cell) -> None:
    cell.check_and_time()
