"""The suite's names and options."""

from itertools import product
from types import SimpleNamespace

import pytest
import torch

from maskbench.suite.options import parse_config
from tests.unit.pytest_process import pytest_run
from tests.unit.test_masks import NAMES

SPELLED = {
    "global_local_sliding_window": ("bool_lookup", "int_lookup", "comparisons", "multiples"),
    "multi_document_causal": ("document_id", "document_start"),
    "standalone_self_attention": ("row_by_row", "tiles"),
}


# --- names ---


def test_node_ids_are_frozen():
    """Saved runs are compared by these names: a change here parts all history in two."""
    shape = ("--batch", 8, "--heads", 32, "--kv-heads", 8, "--head-dim", 128, "--dtype", "bfloat16")
    text = pytest_run("--collect-only", "-q", "--device", "cpu", *shape, "--seq-lens", "512,4096")
    found = {line for line in text.splitlines() if line.startswith("tests/test_")}
    ours = ("dense", "flex", "sdpa", "sdpa_flash", "sdpa_cudnn", "sdpa_efficient", "sdpa_math")
    ours += ("flex_flash", "flash_attn", "flash_attn_4", "torch_varlen", "xformers")
    expected = {
        f"tests/test_{d}.py::test_{d}[{m}-{b}-s{s}-b8h32kv8d128-bfloat16]"
        for d, m, b, s in product(("forward", "backward"), NAMES, ours, (512, 4096))
    } | {
        f"tests/test_block_mask.py::test_block_mask[{m}-{b}-s{s}-b8]"
        for m, b, s in product(NAMES, ("ours", "torch_eager", "torch_compiled"), (512, 4096))
    }
    expected |= {
        f"tests/test_spelling.py::test_spelling_{d}[{m}-{n}-s{s}-b8h32kv8d128-bfloat16]"
        for d, (m, names), s in product(("forward", "backward"), SPELLED.items(), (512, 4096))
        for n in names
    }
    files = ("forward", "backward", "block_mask", "spelling")
    measured = {n for n in found if any(f"test_{f}.py::" in n and "-s" in n for f in files)}
    assert measured == expected


def test_node_ids_of_compilation_are_frozen():
    text = pytest_run("--collect-only", "-q", "-m", "compile", "--device", "cpu", "--masks", "full")
    assert {line for line in text.splitlines() if line.startswith("tests/test_")} == {
        f"tests/test_compile.py::test_compile_{d}[full-{cache}-s512-b1h4d64-float32]"
        for d, cache in product(("forward", "backward"), ("cold", "warm"))
    }


# --- options ---


def options(**given):
    names = ("device", "masks", "backends", "seq_lens", "batch", "heads")
    names += ("kv_heads", "head_dim", "dtype", "jobs")
    return SimpleNamespace(**{**dict.fromkeys(names), "device": "cpu", **given})


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"masks": ["causal", "casual"]}, "--masks: unknown casual; valid are full, causal,"),
        ({"masks": []}, "--masks: names nothing"),
        ({"backends": ["flash9"]}, "--backends: unknown flash9; valid are dense, flex, sdpa"),
        ({"dtype": "int8"}, "--dtype: unknown int8; valid are float16, bfloat16, float32"),
        ({"device": "tpu"}, "--device: unknown tpu; valid are cuda, cpu"),
        ({"heads": 4, "kv_heads": 3}, "--kv-heads: 3 does not divide --heads 4"),
        ({"kv_heads": 0}, "--kv-heads: 0 is not a whole number of 1 or more"),
        ({"batch": -1}, "--batch: -1 is not a whole number"),
        ({"seq_lens": ["512", "1k"]}, "--seq-lens: 1k is not a whole number"),
        ({"seq_lens": []}, "--seq-lens: names no length"),
        ({"jobs": 0}, "--jobs: 0 is not a whole number of 1 or more"),
    ],
)
def test_a_wrong_option_says_what_is_valid(given, message):
    with pytest.raises(pytest.UsageError) as caught:
        parse_config(options(**given))
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--masks", "casual"), "ERROR: --masks: unknown casual; valid are full, causal,"),
        pytest.param(
            ("--device", "cuda"),
            "finds no CUDA device; valid here: cpu",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU"),
        ),
    ],
)
def test_a_wrong_option_is_a_usage_error(arguments, message):
    text = pytest_run("--collect-only", "-q", *arguments, expect=4)
    assert message in text
    assert "Traceback" not in text


def test_help_states_each_option_with_its_default():
    text = pytest_run("--help")
    group = text[text.index("maskbench: attention masks") :].split("\n\n")[0]
    group = " ".join(group.split())
    for name in ("device", "masks", "backends", "seq-lens", "batch", "heads", "kv-heads"):
        assert f"--{name}=" in group, name
    for name in ("head-dim", "dtype", "jobs"):
        assert f"--{name}=" in group, name
    assert group.count("Default:") == 10
    assert "1024,4096,16384 on cuda; 512,1024,2048 on cpu" in group
