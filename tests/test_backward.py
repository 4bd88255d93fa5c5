"""Backward: device time of dq, dk, dv = grad(out, (q, k, v), dout), without the forward."""


# flops = 2.5 times the forward's: five matrix products for two, q @ k.T recomputed among them
def test_backward(backend, cell):
    cell.check_and_time()
