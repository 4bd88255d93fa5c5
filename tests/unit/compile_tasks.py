"""Tasks for compiling ahead, with the backends of `compiling_plugin`."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from maskbench.backends import registry
from maskbench.masks import Causal, Mask
from maskbench.records import Phase
from maskbench.suite.precompile import CompileTask
from maskbench.suite.workload import Shape, Workload
from tests.unit.compiling_plugin import SPECS

WORKLOAD = Workload("causal", 256, Shape(1, 2, 2, 16), "float32", "cpu", Phase.FORWARD)
CAUSAL = Causal(seq_len=256)


def task(variant: str, mask: Mask = CAUSAL) -> CompileTask:
    return CompileTask(WORKLOAD, mask, variant)


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """An empty cache folder, and the plugin's backends."""
    folder = tmp_path / "cache"
    folder.mkdir()
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(folder))
    for spec in SPECS:
        monkeypatch.setitem(registry.BACKENDS, spec.name, spec)
    registry._import_backend.cache_clear()
    yield folder
    registry._import_backend.cache_clear()
