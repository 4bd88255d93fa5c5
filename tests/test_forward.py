"""Forward: device time of out = attention(q, k, v); gradients are not required."""


# flops = 4 * area * heads * head_dim: q @ k.T and p @ v take 2 each per pair and head dimension
def test_forward(backend, cell):
    cell.check_and_time()
