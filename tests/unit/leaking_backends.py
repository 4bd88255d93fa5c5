"""A pytest plugin: right backends that change a setting of the process in their first call."""

from __future__ import annotations

import os
import signal
import tempfile

import torch

from maskbench.attention import BoundAttention
from maskbench.backends import dense, registry


def deleted_folder():
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)


LEAKS = {
    "threads": lambda: torch.set_num_threads(torch.get_num_threads() + 1),
    "dtype": lambda: torch.set_default_dtype(torch.float64),
    "default_device": lambda: torch.set_default_device("meta"),
    "grad": lambda: torch.set_grad_enabled(False),
    "deterministic": lambda: torch.use_deterministic_algorithms(True),
    "precision": lambda: torch.set_float32_matmul_precision("high"),
    "tf32": lambda: setattr(torch.backends.cuda.matmul, "allow_tf32", True),
    "folder": lambda: os.chdir("/"),
    "gone": deleted_folder,
    "environment": lambda: os.environ.update(TORCHINDUCTOR_CACHE_DIR="/nowhere"),
    "signal": lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),
}


def leaking(leak):
    def bind(mask, q, k, v):
        right = dense.bind(mask, q, k, v)

        def forward(*inputs):
            out = right.forward(*inputs)
            leak()
            return out

        return BoundAttention(right.formulation, right.inputs, forward)

    return bind


BACKENDS = {name: leaking(leak) for name, leak in LEAKS.items()}
BACKENDS |= {f"right_{name}": dense.bind for name in LEAKS}
BACKENDS |= {"draws": leaking(lambda: torch.manual_seed(5))}
BACKENDS |= {"sets_new": leaking(lambda: os.environ.update(MASKBENCH_TEST="1"))}


def pytest_load_initial_conftests():
    """Register before the command-line options list the names."""
    for name in BACKENDS:
        registry.register(registry.BackendSpec(name, __name__))
