"""The texts of pictures: what is left out of names, and where lines are broken."""

from __future__ import annotations

from reports.plots.changes import without_common_end
from reports.plots.labels import balanced, wrapped


def test_what_all_names_have_in_common_is_said_once() -> None:
    names = ["causal-flex-s512-b1h4", "full-sdpa-s512-b1h4"]
    assert without_common_end(names) == (["causal-flex", "full-sdpa"], "-s512-b1h4")
    assert without_common_end(["a-flex", "b-aflex"]) == (["a-flex", "b-aflex"], "")
    assert without_common_end(names[:1]) == (names[:1], "")


def test_a_text_is_broken_at_underscores_and_within_a_word_only_if_it_must() -> None:
    assert wrapped("bidirectional_dilated_sliding_window", 22) == [
        "bidirectional_dilated_",
        "sliding_window",
    ]
    assert wrapped("a bc def", 4) == ["a bc", "def"]
    assert wrapped("x" * 10, 4) == ["xxxx", "xxxx", "xx"]
    assert wrapped("one two three", 5, 2) == ["one", "two…"]
    assert wrapped("", 5) == [""]
    assert balanced("flash_attn_4", 11, 4) == ["flash_", "attn_4"]
    assert balanced("flash_attn", 8, 4) == ["flash_", "attn"]
    assert balanced("xformers", 11, 4) == ["xformers"]
