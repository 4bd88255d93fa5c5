"""The fixtures `module` and `bind`: a backend's module, run on the fake of its library."""

import importlib.util
import sys
from contextlib import nullcontext
from pathlib import Path
from types import ModuleType

import pytest
import torch

from maskbench.backends import registry
from tests.unit.fake_cudnn import STREAM
from tests.unit.fake_libraries import PACKAGES, aten_backward

HELPERS = [
    f"maskbench.backends.{name}" for name in ("cute_mask_mods", "cudnn_graphs", "cudnn_attention")
]


class CurrentStream:
    """torch.cuda.current_stream()."""

    cuda_stream = STREAM


@pytest.fixture
def module(library, monkeypatch, tmp_path):
    """The library's module, executed anew with the fakes in place of its packages."""
    for name, members in PACKAGES[library]().items():
        fake = ModuleType(name)
        vars(fake).update(members)
        monkeypatch.setitem(sys.modules, name, fake)
    if library == "xformers":
        (tmp_path / "_C.so").touch()
        sys.modules["xformers"].__file__ = str(tmp_path / "__init__.py")
        sys.modules["xformers"].ops = sys.modules["xformers.ops"]
        monkeypatch.setattr(torch.ops, "load_library", lambda path: None)
    monkeypatch.setattr(torch.ops.aten, "_flash_attention_backward", aten_backward)
    monkeypatch.setattr("maskbench.varlen.ops.require_cuda_half", lambda library, q: None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(torch.cuda, "device", nullcontext)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: CurrentStream)
    # They import the library, too: they are loaded with the fakes, and again after the test.
    for name in HELPERS:
        monkeypatch.delitem(sys.modules, name, raising=False)
    path = Path(registry.__file__).with_name(f"{library}.py")
    spec = importlib.util.spec_from_file_location(f"{library}_alone", path)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    if library == "cudnn":  # statistics in float64, as everything else here
        attention = sys.modules["maskbench.backends.cudnn_attention"]
        monkeypatch.setattr(attention, "STATS_DTYPE", torch.float64)
    yield module
    for name in HELPERS:
        sys.modules.pop(name, None)


@pytest.fixture
def bind(module, library):
    return module.BACKENDS[library]
