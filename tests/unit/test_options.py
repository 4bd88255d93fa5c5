"""The suite's names and options."""

from itertools import product
from types import SimpleNamespace

import pytest
import torch

from maskbench.suite.option_parsing import parse_config
from tests.unit.pytest_process import ROOT, pytest_inline

# Saved runs have these names. Others may be added; these must not change.
MASKS = (
    *("full", "causal", "causal_sliding_window", "bidirectional_sliding_window"),
    *("bidirectional_dilated_sliding_window", "global_local_sliding_window", "prefix_lm"),
    *("multi_document_bidirectional", "multi_document_causal", "multi_document_prefix_lm"),
    *("standalone_self_attention", "causal_padding"),
)
BACKENDS = (
    *("dense", "flex", "sdpa", "sdpa_flash", "sdpa_cudnn", "sdpa_efficient", "sdpa_math"),
    *("flex_flash", "flash_attn", "flash_attn_4", "torch_varlen", "xformers"),
)
VARIANTS = {
    "global_local_sliding_window": ("bool_lookup", "int_lookup", "comparisons", "multiples"),
    "multi_document_causal": ("document_id", "document_start"),
    "standalone_self_attention": ("row_by_row", "tiles"),
}


# --- names ---


def collected(*arguments: object) -> set[str]:
    """The node ids that pytest collects on the CPU."""
    names = ("--masks", ",".join(MASKS), "--backends", ",".join(BACKENDS))
    text = pytest_inline("--collect-only", "-q", "--device", "cpu", *names, *arguments)
    return {line for line in text.splitlines() if line.startswith("tests/test_")}


def test_node_ids_are_frozen():
    """Saved runs are compared by node id: a change here breaks their history."""
    shape = ("--batch", 8, "--heads", 32, "--kv-heads", 8, "--head-dim", 128, "--dtype", "bfloat16")
    phases = ("forward", "backward", "block_mask", "spelling")
    files = [f"tests/test_{phase}.py" for phase in phases]
    found = collected(*shape, "--seq-lens", "512,4096", *files)
    expected = {
        f"tests/test_{phase}.py::test_{phase}[{mask}-{backend}-s{seq_len}-b8h32kv8d128-bfloat16]"
        for phase, mask, backend, seq_len in product(phases[:2], MASKS, BACKENDS, (512, 4096))
    }
    expected |= {
        f"tests/test_block_mask.py::test_block_mask[{mask}-{builder}-s{seq_len}-b8]"
        for mask, builder, seq_len in product(
            MASKS, ("ours", "torch_eager", "torch_compiled"), (512, 4096)
        )
    }
    expected |= {
        f"tests/test_spelling.py::test_spelling_{phase}"
        f"[{mask}-{variant}-s{seq_len}-b8h32kv8d128-bfloat16]"
        for phase, (mask, variants), seq_len in product(phases[:2], VARIANTS.items(), (512, 4096))
        for variant in variants
    }
    assert found == expected


def test_node_ids_of_compilation_are_frozen():
    assert collected("-m", "compile", "--masks", "full", *ROOT.glob("tests/test_*.py")) == {
        f"tests/test_compile.py::test_compile_{d}[full-{cache}-s512-b1h4d64-float32]"
        for d, cache in product(("forward", "backward"), ("cold", "warm"))
    }


def test_node_ids_of_soaks_are_frozen():
    assert collected("-m", "soak", "--masks", "full", *ROOT.glob("tests/test_*.py")) == {
        f"tests/test_soak.py::test_soak_backward[full-{backend}-s512-b1h4d64-float32]"
        for backend in BACKENDS
    }


def test_node_ids_of_searches_are_frozen():
    assert collected("-m", "tune", "--masks", "full", *ROOT.glob("tests/test_*.py")) == {
        f"tests/test_tune.py::test_tune_{d}[full-flex_tuned-s512-b1h4d64-float32]"
        for d in ("forward", "backward")
    }


# --- options ---


def options(**given):
    """What pytest parses from the command line, with `given` set and the rest not."""
    names = ("device", "masks", "backends", "seq_lens", "batch", "heads")
    names += ("kv_heads", "head_dim", "v_head_dim", "dtype", "jobs")
    names += ("q_lens", "document_lengths", "model")
    return SimpleNamespace(
        **{
            **dict.fromkeys(names),
            **{"device": "cpu", "cell_timeout": 600.0, "cuda_graphs": False},
            **given,
        }
    )


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"masks": ["causal", "casual"]}, "--masks: unknown casual; did you mean causal?"),
        ({"masks": ["nothing"]}, "--masks: unknown nothing; valid are full, causal,"),
        ({"masks": []}, "--masks: names nothing"),
        ({"cuda_graphs": True}, "--cuda-graphs: needs a GPU; the device of this run is cpu"),
        ({"cell_timeout": -1.0}, "--cell-timeout: -1.0 is not a time of 0 s or more"),
        ({"cell_timeout": float("nan")}, "--cell-timeout: nan is not a time of 0 s or more"),
        ({"cell_timeout": float("inf")}, "--cell-timeout: inf is not a time of 0 s or more"),
        ({"backends": ["flash9"]}, "--backends: unknown flash9; valid are dense, flex, sdpa"),
        ({"dtype": "int8"}, "--dtype: unknown int8; valid are float16, bfloat16, float32"),
        ({"device": "tpu"}, "--device: unknown tpu; valid are cuda, cpu"),
        ({"heads": 4, "kv_heads": 3}, "--kv-heads: 3 does not divide --heads 4"),
        ({"kv_heads": 0}, "--kv-heads: 0 is not a whole number of 1 or more"),
        ({"batch": -1}, "--batch: -1 is not a whole number"),
        ({"seq_lens": ["512", "1k"]}, "--seq-lens: 1k is not a whole number"),
        ({"seq_lens": []}, "--seq-lens: names no number"),
        ({"q_lens": []}, "--q-lens: names no number"),
        ({"q_lens": ["0"]}, "--q-lens: 0 is not a whole number of 1 or more"),
        (
            {"q_lens": ["600"], "seq_lens": ["4096", "512"]},
            "--q-lens: 600 queries are more than the 512 keys of --seq-lens",
        ),
        ({"model": "llama-9"}, "--model: "),
        ({"v_head_dim": "0"}, "--v-head-dim: 0 is not a whole number of 1 or more"),
        ({"jobs": 0}, "--jobs: 0 is not a whole number of 1 or more"),
        ({"jobs": "9" * 5000}, f"--jobs: {'9' * 40}... is more than 2147483647"),
        ({"batch": str(2**31)}, "--batch: 2147483648 is more than 2147483647"),
        ({"heads": "1.5"}, "--heads: 1.5 is not a whole number of 1 or more"),
        ({"head_dim": "x" * 5000}, f"--head-dim: {'x' * 40}... is not a whole number"),
        ({"seq_lens": ["1" * 5000]}, f"--seq-lens: {'1' * 40}... is more than 2147483647"),
        ({"seq_lens": ["000"]}, "--seq-lens: 000 is not a whole number of 1 or more"),
    ],
)
def test_a_wrong_option_says_what_is_valid(given, message):
    with pytest.raises(pytest.UsageError) as caught:
        parse_config(options(**given))
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--masks", "casual"), "ERROR: --masks: unknown casual; did you mean causal?"),
        pytest.param(
            ("--device", "cuda"),
            "finds no CUDA device; valid here: cpu",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU"),
        ),
    ],
)
def test_a_wrong_option_is_a_usage_error(arguments, message):
    text = pytest_inline("--collect-only", "-q", *arguments, expect=4)
    assert message in text
    assert "Traceback" not in text


def test_help_states_each_option_with_its_default():
    text = pytest_inline("--help")
    group = text[text.index("maskbench: attention masks") :].split("\n\n")[0]
    group = " ".join(group.split())
    names = ("device", "masks", "backends", "seq-lens", "batch", "heads", "kv-heads")
    names += ("q-lens", "document-lengths", "model", "v-head-dim")
    for name in (*names, "head-dim", "dtype", "jobs", "resume", "cell-timeout", "gpus"):
        assert f"--{name}=" in group, name
    assert "--cuda-graphs" in group
    assert group.count("Default:") == 17
    assert "1024,4096,16384 on cuda; 512,1024,2048 on cpu" in group
