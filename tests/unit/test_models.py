"""The table of models: its values are consistent, and an unknown name is a clear error."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

import pytest
import torch

from maskbench.suite.models import MODELS, ModelShape, find_model
from maskbench.suite.options import DTYPES

MASK = re.compile(r"(?P<name>[a-z0-9_]+)(\((?P<parameters>[a-z_]+=\d+(, [a-z_]+=\d+)*)\))?")

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


@every_model
def test_every_mask_is_written_as_an_option_takes_it(name: str) -> None:
    masks = MODELS[name].masks
    assert masks
    assert len(set(masks)) == len(masks)
    for mask in masks:
        assert MASK.fullmatch(mask), mask


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
