"""Damaged cache files are found by their form, deleted and built again once."""

import ctypes
import json
import os
import pickle
from pathlib import Path

import numpy.random._common
import pytest

from maskbench.attention import Unsupported
from maskbench.suite import cache_folders, cache_repair
from maskbench.suite.cache_repair import DamagedCache, NoRoom, first_call
from tests.unit.pytest_process import pytest_run, strict_json

LIBRARY = Path(numpy.random._common.__file__).read_bytes()
PICKLE = pickle.dumps({"a graph": list(range(3000))})
DAMAGE = {
    "empty": lambda data: b"",
    "first 3000 bytes": lambda data: data[:3000],
    "60 percent": lambda data: data[: len(data) * 6 // 10],
    "last byte lost": lambda data: data[:-1],
    "zeros": lambda data: bytes(len(data)),
    "text": lambda data: b"<html>quota exceeded</html>",
    "garbage": lambda data: bytes(range(1, 251)) * (len(data) // 250 + 1),
    "garbage from byte 3000": lambda data: data[:3000] + b"\xa5" * max(0, len(data) - 3000),
}
FILES = {  # kind: (variable of the folder, path in it, contents)
    "library": ("TORCHINDUCTOR_CACHE_DIR", "2p/c2p2.main.so", LIBRARY),
    "graph": ("TORCHINDUCTOR_CACHE_DIR", "fxgraph/lz/flz/lxbs", PICKLE),
    "AOTAutograd entry": ("TORCHINDUCTOR_CACHE_DIR", "aotautograd/aq26/47po", PICKLE),
    "cubin": ("TRITON_CACHE_DIR", "ABC/kernel.cubin", LIBRARY),
    "Triton's launcher": ("TRITON_CACHE_DIR", "DEF/__triton_launcher.so", LIBRARY),
    "Triton's JSON": (
        "TRITON_CACHE_DIR",
        "ABC/kernel.json",
        json.dumps({"name": "kernel" * 1000}).encode(),
    ),
}


@pytest.fixture
def caches(monkeypatch, tmp_path):
    """Cache folders with a whole file of each kind; a function gives the path of a kind."""
    for name in cache_folders.CACHE_VARIABLES:
        monkeypatch.setenv(name, str(tmp_path / name.lower()))
    monkeypatch.setattr(cache_repair, "SETTLED_S", -1)

    def path(kind):
        variable, name, _ = FILES[kind]
        return tmp_path / variable.lower() / name

    for kind, (_, _, contents) in FILES.items():
        path(kind).parent.mkdir(parents=True, exist_ok=True)
        path(kind).write_bytes(contents)
    return path


def damage(path, how):
    data = DAMAGE[how](path.read_bytes())
    assert data != path.read_bytes()
    path.write_bytes(data)


def test_whole_files_are_left_alone(caches):
    assert cache_repair.repair() == []
    assert all(caches(kind).exists() for kind in FILES)


@pytest.mark.parametrize("how", DAMAGE)
@pytest.mark.parametrize("kind", FILES)
def test_a_damaged_file_is_named_and_deleted_with_the_stamps(caches, kind, how):
    path = caches(kind)
    stamps = Path(os.environ["TORCHINDUCTOR_CACHE_DIR"], "maskbench")
    stamps.mkdir()
    (stamps / "0123").write_text("compiled")
    (stamps / "launch_0123").write_text("1e-6")
    damage(path, how)
    assert cache_repair.repair() == [f"damaged cache file deleted, to be built again: {path}"]
    assert not path.exists()
    assert [stamp.name for stamp in stamps.iterdir()] == ["launch_0123"]
    assert cache_repair.repair() == []


def test_a_file_that_is_being_written_is_left_alone(caches, monkeypatch):
    monkeypatch.setattr(cache_repair, "SETTLED_S", 60)
    damage(caches("library"), "60 percent")
    assert cache_repair.repair() == []


def load(path):
    """Load a library, as torch does, and build it if it is missing."""
    if not path.exists():
        path.write_bytes(LIBRARY)
    try:
        ctypes.CDLL(str(path))
    except OSError as error:
        raise RuntimeError("backend='inductor' raised an error") from error
    return "loaded"


@pytest.mark.parametrize("how", ["empty", "text", "zeros"])  # one of 3000 bytes may crash
def test_a_cells_first_call_builds_a_damaged_file_again(caches, how):
    damage(caches("library"), how)
    assert first_call(lambda: load(caches("library"))) == "loaded"


def test_a_library_of_the_right_form_that_cannot_be_loaded_is_built_again(caches):
    library = caches("library")
    calls = []

    def load_other_architecture():
        calls.append(library.exists())
        if library.exists():
            raise RuntimeError("inductor") from OSError(f"{library}: undefined symbol: kernel")
        return "built"

    assert first_call(load_other_architecture) == "built"
    assert calls == [True, False]


def test_a_file_that_cannot_be_built_again_is_named_and_tried_once(caches):
    library, calls = caches("library"), []
    damage(library, "empty")

    def fail():
        calls.append(1)
        raise RuntimeError(f"no compiler\n{library}")

    with pytest.raises(DamagedCache, match=r"c2p2\.main\.so.*not built again.*no compiler"):
        first_call(fail)
    assert len(calls) == 2


@pytest.mark.parametrize("error", [ValueError("wrong"), RuntimeError("a\nb"), Unsupported("no")])
def test_another_error_is_raised_as_it_is(caches, error):
    calls = []

    def fail():
        calls.append(1)
        raise error

    with pytest.raises(type(error)) as raised:
        first_call(fail)
    assert raised.value is error
    assert len(calls) == 1


def test_a_failure_on_a_full_disk_names_the_disk(caches, monkeypatch):
    monkeypatch.setattr(cache_folders, "MIN_FREE_BYTES", 2**80)

    def fail():
        raise RuntimeError("LoweringException: AssertionError:")

    for name in cache_folders.CACHE_VARIABLES:
        Path(os.environ[name]).mkdir(exist_ok=True)
    with pytest.raises(NoRoom, match=r"TORCHINDUCTOR_CACHE_DIR: .* MiB free.*LoweringException"):
        first_call(fail)


@pytest.mark.slow
def test_torchs_own_damaged_files_are_built_again(monkeypatch, tmp_path):
    """Also that the form of torch's files is what `cache_repair` takes for whole."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "cache" / "triton"))
    few = ("--masks", "causal", "--backends", "flex", "--seq-lens", 256, "--device", "cpu")
    few = (*few, "--heads", 2, "--head-dim", 16, "--benchmark-only", "tests/test_forward.py")
    few = (*few, "--benchmark-max-time=0.01", f"--benchmark-json={tmp_path / 'run.json'}")
    text = pytest_run(*few)
    assert "damaged cache file" not in text
    assert "leaked semaphore" not in text, "the workers have ended by themselves"
    monkeypatch.setattr(cache_repair, "SETTLED_S", -1)
    assert cache_repair.damaged_files() == []
    kinds = {
        "*/*.so": "60 percent",
        "fxgraph/*/*/*": "garbage",
        "aotautograd/*/*": "first 3000 bytes",
    }
    for pattern, how in kinds.items():
        files = [path for path in (tmp_path / "cache").glob(pattern) if path.is_file()]
        assert files
        for file in files:
            damage(file, how)
            os.utime(file, (0, 0))
    text = pytest_run(*few)
    assert text.count("damaged cache file deleted") >= 3
    assert len(strict_json(tmp_path / "run.json")["benchmarks"]) == 1
    assert "damaged cache file" not in pytest_run(*few)
