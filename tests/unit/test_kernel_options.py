"""The table and the snippets of the options that were found."""

import msgspec
import pytest

from maskbench.tuned_options import write_entry
from reports import kernel_options
from reports.__main__ import main
from reports.kernel_options import (
    NAME,
    kernel_options_report,
    load_entries,
    options_table,
    saved_name,
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


def test_files_that_cannot_be_read_are_named_and_left_out(store, capsys):
    (store / "gpu" / "folder.json").mkdir()
    (store / "gpu" / "link.json").symlink_to(store / "nothing")
    assert len(load_entries(store)) == 4
    folder, link = capsys.readouterr().err.splitlines()
    assert folder.endswith("gpu/folder.json: cannot be read: Is a directory")
    assert link.endswith("gpu/link.json: cannot be read: No such file or directory")
    assert main(["kernel_options"]) == main(["options", "causal"]) == 0


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
    faster = "0.91 (max-autotune is faster)"
    assert list(table["gain over max-autotune"]) == ["1.36", "1.14", faster, ""]


def test_each_gpu_release_and_shape_has_a_table():
    entries = [entry(found(1.2)), entry(found(1.2), gpu="A100"), entry(torch="2.9.0")]
    entries.append(entry(problem=problem(q_len=16, kv_heads=1, v_head_dim=8)))
    text = kernel_options_report(entries).markdown()
    assert text.count("### ") == 4
    assert "B1 H2 (kv 1) D16 (v 8) float32, S = 512, 16 queries" in text


def test_the_tables_are_written_between_the_markers(store, tmp_path, capsys):
    page = tmp_path / "page.md"
    page.write_text(f"before\n<!-- begin: {NAME} -->\nold\n<!-- end: {NAME} -->\nafter\n")
    assert main(["kernel_options", "-o", str(page)]) == 0
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "old" not in text
    assert "| causal | backward | BLOCK_M1=64, BLOCK_SIZE=256x256 | 1.50 ± 0.01 | 1.36 |" in text
    assert "between the markers of" in capsys.readouterr().out


def test_options_prints_the_entries_of_a_mask(store, capsys):
    assert main(["options", "causal"]) == 0
    text = capsys.readouterr().out
    assert text.count("create_block_mask(") == 2
    assert "fwd_BLOCK_M" in text
    assert "BLOCK_SIZE=(256, 256)" in text
    assert main(["options", "casual"]) == 2
    assert "masks with options are full, causal, sinks.a" in capsys.readouterr().err
    assert main(["options", "folder/sinks.py:a"]) == 0
    assert capsys.readouterr().out.startswith("# sinks.a forward")
    assert main(["options", "sinks.py:b"]) == 2
    assert "sinks.py:b: has no options" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("causal", "causal"),
        ("causal_sliding_window(left=1023, right=2)", "causal_sliding_window(left=1023,right=2)"),
        ("my_masks.py:turns", "my_masks.turns"),
        ("../a b/my_masks.py:turns(n=2, kind='x')", "my_masks.turns(n=2,kind=x)"),
        ("my_masks.turns(n=2)", "my_masks.turns(n=2)"),
    ],
)
def test_a_mask_is_named_as_typed_for_masks(text, name):
    assert saved_name(text) == name


QUERIES = [{"q_len": 1}, {"q_len": 3}, {"q_len": 300, "seq_len": 300}, {"mask": "full", "q_len": 3}]


@pytest.mark.parametrize("fields", [{}, {"mask": "full"}, {"kv_heads": 1}, *QUERIES])
def test_a_snippet_computes_the_last_queries_of_the_mask(fields, monkeypatch, device):
    """With eager FlexAttention, so that nothing is compiled."""
    import torch
    from torch.nn.functional import scaled_dot_product_attention

    given = problem(**fields)
    text = snippet(entry(found(1.25, (64, 64)), found(1.2), problem=given))
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)
    n = given.seq_len
    heads = (given.heads, given.kv_heads, given.kv_heads)
    q, k, v = (torch.randn(1, h, n, 16) for h in heads)
    last = slice(n - (given.q_len or n), n)
    names = {"q": q[:, :, last], "k": k, "v": v, "mask_mod": lambda b, h, q, k: q >= k}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("warnings.warn", lambda *_, **__: None)  # eager is slow, it says
        exec(text, names)
    k, v = (t.repeat_interleave(given.heads // given.kv_heads, 1) for t in (k, v))
    of_all = scaled_dot_product_attention(q, k, v, is_causal=given.mask != "full")
    torch.testing.assert_close(names["out"], of_all[:, :, last])


def test_a_snippet_counts_its_queries():
    assert "S = 512, 1 query\n" in snippet(entry(problem=problem(q_len=1)))
    assert "S = 512, 2 queries\n" in snippet(entry(problem=problem(q_len=2)))


@pytest.mark.parametrize(
    ("mask", "can_change"),
    [
        ("causal", False),
        ("causal_sliding_window(left=3)", False),
        ("my_masks.sinks", True),
        ("multi_document_causal(documents=lengths.txt)", True),
    ],
)
def test_switches_of_a_mask_that_is_read_from_a_file_have_a_comment(mask, can_change):
    switches = {"fwd_BLOCKS_ARE_CONTIGUOUS": True, "fwd_ROWS_GUARANTEED_SAFE": True}
    text = snippet(entry(found(1.1, **TILE, **switches), problem=problem(mask=mask)))
    for name in switches:
        line = f"    # Leave out {name} if the mask has changed since the search"
        assert (line in text) == can_change
    plain = snippet(entry(found(1.1, **TILE), problem=problem(mask=mask)))
    assert "has changed" not in plain


def test_a_default_that_is_best_needs_no_code():
    text = snippet(entry())
    assert text.endswith("# None of the options that were tried is faster than the default.")
    assert "import" not in text


def test_a_snippet_says_that_torchs_own_search_is_faster():
    line = "# torch.compile's mode 'max-autotune-no-cudagraphs' is 1.10 times as fast as these"
    assert line in snippet(entry(found(1.1), max_autotune_gain=1.21))
    assert line in snippet(entry())
    assert "max-autotune" not in snippet(entry(found(1.1)))
