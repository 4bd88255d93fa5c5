"""The table, the rules and the snippets of the options that were found."""

import msgspec
import pytest

from maskbench.tuned_options import write_entry
from reports import kernel_options
from reports.__main__ import main
from reports.kernel_options import (
    NAME,
    features,
    kernel_options_report,
    load_entries,
    options_table,
    rules,
    snippet,
)
from reports.runs import UnreadableRun
from tests.unit.tuned_entries import PROBLEM, entry, found

TILE = {"fwd_BLOCK_M": 128, "fwd_BLOCK_N": 64}


def problem(**fields):
    return msgspec.structs.replace(PROBLEM, **fields)


@pytest.fixture
def store(monkeypatch, tmp_path):
    """A folder with entries of two masks; `python -m reports` reads it."""
    folder = tmp_path / "tuned"
    for mask, options in {"causal": [found(1.25, **TILE)], "full": [], "sinks.a": []}.items():
        write_entry(entry(*options, problem=problem(mask=mask)), folder)
    backward = found(1.5, (256, 256), bwd_BLOCK_M1=64)
    write_entry(entry(backward, problem=problem(direction="backward")), folder)
    load = kernel_options.load_entries
    monkeypatch.setattr(kernel_options, "load_entries", lambda: load(folder))
    return folder


def test_entries_are_in_the_order_of_the_catalogue(store):
    names = [(e.problem.mask, e.problem.direction) for e in load_entries(store)]
    assert names == [
        ("full", "forward"),
        ("causal", "forward"),
        ("causal", "backward"),
        ("sinks.a", "forward"),
    ]


def test_unusable_files_are_named_and_left_out(store, capsys):
    (store / "gpu" / "other.json").write_text("{")
    assert len(load_entries(store)) == 4
    assert "other.json: is damaged" in capsys.readouterr().err


def test_without_entries_the_message_names_the_command(tmp_path):
    with pytest.raises(UnreadableRun, match="search them with pytest -m tune"):
        load_entries(tmp_path)


def test_the_table_compares_with_the_default_and_with_torchs_own_search():
    flash, own = found(1.5, BACKEND="FLASH"), found(1.25, **TILE)
    table = options_table([entry(flash, own), entry(), entry(own, max_autotune_gain=None)])
    assert list(table["options"]) == [
        "BACKEND=FLASH",
        "BLOCK_M=128, BLOCK_N=64",
        "the default is best",
        "BLOCK_M=128, BLOCK_N=64",
    ]
    assert list(table["gain"]) == ["1.50 ± 0.01", "1.25 ± 0.01", "1", "1.25 ± 0.01"]
    assert list(table["gain over max-autotune"]) == ["1.36", "1.14", "0.91", ""]


def test_features_keep_the_tile_together_and_have_no_prefix():
    options = found(1.1, (256, 256), **TILE, fwd_USE_TMA=True).options
    assert features(options) == ["BLOCK_M=128, BLOCK_N=64", "USE_TMA=True", "BLOCK_SIZE=256x256"]


def test_rules_are_what_most_problems_share():
    entries = [
        entry(found(1.5, BACKEND="FLASH"), found(1.2, **TILE, fwd_num_warps=4)),
        entry(found(1.2, **TILE, fwd_num_warps=8)),
        entry(found(1.2, fwd_num_warps=4)),
        entry(),
        entry(problem=problem(direction="backward")),
    ]
    assert rules(entries) == [
        "Forward: BACKEND=FLASH is the fastest for 1 of 4.",
        "Forward: options of FlexAttention's own kernels gain for 3 of 4; "
        "most share BLOCK_M=128, BLOCK_N=64 (2), num_warps=4 (2).",
        "Backward: options of FlexAttention's own kernels gain for 0 of 1; "
        "no option is common to most.",
    ]


def test_each_gpu_release_and_shape_has_a_table():
    entries = [entry(found(1.2)), entry(found(1.2), gpu="A100"), entry(torch="2.9.0")]
    entries.append(entry(problem=problem(q_len=16, kv_heads=1, v_head_dim=8)))
    text = kernel_options_report(entries)
    assert text.count("### ") == 4
    assert "B1 H2 (kv 1) D16 (v 8) float32, S = 512, 16 queries" in text


def test_the_page_is_written_between_its_markers(store, tmp_path, capsys):
    page = tmp_path / "page.md"
    page.write_text(f"before\n<!-- begin: {NAME} -->\nold\n<!-- end: {NAME} -->\nafter\n")
    assert main(["kernel_options", "-o", str(page)]) == 0
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "old" not in text
    assert "| causal | backward | BLOCK_M1=64, BLOCK_SIZE=256x256 | 1.50 ± 0.01 | 1.36 |" in text
    assert "as a page" in capsys.readouterr().out


def test_options_prints_the_entries_of_a_mask(store, capsys):
    assert main(["options", "causal"]) == 0
    text = capsys.readouterr().out
    assert text.count("create_block_mask(") == 2
    assert "fwd_BLOCK_M" in text
    assert "BLOCK_SIZE=(256, 256)" in text
    assert main(["options", "casual"]) == 2
    assert "masks with options are full, causal, sinks.a" in capsys.readouterr().err


@pytest.mark.parametrize("fields", [{}, {"mask": "full"}, {"kv_heads": 1}, {"q_len": 3}])
def test_a_snippet_runs_as_printed(fields, monkeypatch, device):
    """With eager FlexAttention, so that nothing is compiled."""
    import torch
    from torch.nn.attention.flex_attention import flex_attention

    given = problem(**fields)
    text = snippet(entry(found(1.25, (64, 64)), problem=given))
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)
    lengths = (given.q_len or given.seq_len, given.seq_len, given.seq_len)
    heads = (given.heads, given.kv_heads, given.kv_heads)
    q, k, v = (torch.randn(1, h, n, 16) for h, n in zip(heads, lengths, strict=True))
    names = {"q": q, "k": k, "v": v, "mask_mod": lambda b, h, q, k: q >= k}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("warnings.warn", lambda *_, **__: None)  # eager is slow, it says
        exec(text, names)
        grouped = given.kv_heads != given.heads
        expected = flex_attention(q, k, v, block_mask=names.get("block_mask"), enable_gqa=grouped)
    torch.testing.assert_close(names["out"], expected)


def test_a_default_that_is_best_needs_no_code():
    text = snippet(entry())
    assert text.endswith("# The default options are the fastest.")
    assert "import" not in text
