"""Backward: device time of dq, dk, dv = grad(out, (q, k, v), dout), the forward not included."""


# flops = 2.5 times the forward's: five products of its two, q @ k.T computed again among them
def test_backward(backend, cell):
    cell.check_and_time()
