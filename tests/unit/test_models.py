"""The table of models: its values are consistent, and an unknown name is a clear error."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

import pytest
import torch

from maskbench.masks import Mask
from maskbench.suite import requested_masks
from maskbench.suite.models import MODELS, ModelShape, find_model
from maskbench.suite.options import DTYPES
from maskbench.suite.requested_masks import MaskRequest, build_mask, request_masks
from maskbench.suite.user_masks import MaskSize

every_model = pytest.mark.parametrize("name", MODELS)


@every_model
def test_names_are_lower_case_and_need_no_quotes(name: str) -> None:
    assert re.fullmatch(r"[a-z0-9]+([.-][a-z0-9]+)*", name)


@every_model
def test_shapes_are_possible(name: str) -> None:
    model = MODELS[name]
    dims = (model.head_dim, model.v_head_dim or model.head_dim)
    assert model.heads % model.kv_heads == 0
    assert all(dim > 0 and dim % 8 == 0 for dim in dims)
    assert model.v_head_dim != model.head_dim  # None says this


@every_model
def test_dtypes_are_those_of_the_suite(name: str) -> None:
    dtype = MODELS[name].dtype
    assert dtype in DTYPES
    assert isinstance(getattr(torch, dtype), torch.dtype)


@pytest.mark.parametrize("seq_len", [1000, 32760])
@every_model
def test_every_mask_is_in_the_catalogue(
    monkeypatch: pytest.MonkeyPatch, name: str, seq_len: int
) -> None:
    model = MODELS[name]
    monkeypatch.setattr(requested_masks, "REQUESTED", {})
    names = request_masks(MaskRequest(model.masks))
    assert len(names) == len(model.masks) > 0
    for mask_name in names:
        assert build_mask(mask_name, MaskSize(seq_len, 1, model.heads, "cpu")).seq_len == seq_len


def model_mask(monkeypatch: pytest.MonkeyPatch, text: str, seq_len: int) -> Mask:
    """The mask that `--masks` requests by this text."""
    monkeypatch.setattr(requested_masks, "REQUESTED", {})
    (name,) = request_masks(MaskRequest((text,)))
    return build_mask(name, MaskSize(seq_len, 1, 1, "cpu"))


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("gpt-oss-20b", 128),
        ("gpt-oss-120b", 128),
        ("gemma-2-9b", 4096),
        ("gemma-3-27b", 1024),
        ("mistral-7b", 4096),
        ("phi-3-mini", 2048),
    ],
)
def test_a_query_sees_the_keys_of_the_window(
    monkeypatch: pytest.MonkeyPatch, name: str, keys: int
) -> None:
    (text,) = (mask for mask in MODELS[name].masks if "window" in mask)
    mask = model_mask(monkeypatch, text, keys + 10)
    # The first query sees one key, each of the next ones one more, and ten see all of the window.
    assert mask.area(1) == keys * (keys + 1) // 2 + 10 * keys


@pytest.mark.parametrize(
    ("name", "block"), [("self-forcing-1.3b", 3 * 1560), ("magi-1-24b", 6 * 3600)]
)
def test_a_video_of_two_blocks_sees_its_past(
    monkeypatch: pytest.MonkeyPatch, name: str, block: int
) -> None:
    mask = model_mask(monkeypatch, MODELS[name].masks[0], 2 * block)
    assert mask.area(1) == 3 * block * block


@every_model
def test_sources_are_public_configurations(name: str) -> None:
    url = urlsplit(MODELS[name].source)
    assert url.scheme == "https"
    assert url.hostname in {"github.com", "huggingface.co"}
    assert re.search(r"/blob/.+\.(py|json|yaml)$", url.path)


def test_a_model_is_found_by_its_name() -> None:
    assert find_model("deepseek-v3") == ModelShape(
        heads=128,
        kv_heads=128,
        head_dim=192,
        v_head_dim=128,
        dtype="bfloat16",
        masks=("causal",),
        source=MODELS["deepseek-v3"].source,
    )


@pytest.mark.parametrize(
    ("name", "first"),
    [
        ("lama-3.1-8b", "llama-3.1-8b"),
        ("GPT-OSS-120B", "gpt-oss-120b"),
        ("gemma3-27b", "gemma-3-27b"),
        ("", "llama-3.1-8b"),
    ],
)
def test_an_unknown_name_lists_all_names_with_the_nearest_first(name: str, first: str) -> None:
    with pytest.raises(ValueError, match=re.escape(f"unknown model {name!r}")) as error:
        find_model(name)
    listed = str(error.value).partition("known are ")[2].split(", ")
    assert listed[0] == first
    assert sorted(listed) == sorted(MODELS)
