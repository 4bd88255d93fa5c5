"""Formulation ids: those derived from saved texts, and those of the current backends."""

import gzip
import json
import re
from pathlib import Path

import pytest
import torch

from maskbench.attention import Unsupported
from maskbench.backends import registry
from maskbench.legacy_formulations import legacy_formulation
from maskbench.suite.block_masks import BUILDERS
from tests.unit.conformance import MASKS, is_available

RUNS = Path(__file__).parents[2] / "reports" / "runs"


def saved_texts():
    """Every value of the field "form" in the saved runs that have no ids."""
    texts = set()
    for path in (*RUNS.rglob("*.json"), *RUNS.rglob("*.json.gz")):
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        if b'"formulation":' not in data:
            texts |= set(re.findall(r'"form":\s*("(?:[^"\\]|\\.)*")', data.decode()))
    return {json.loads(text) for text in texts}


def test_every_saved_text_has_an_id():
    ids = {text: legacy_formulation(text) for text in saved_texts()}
    assert len(ids) > 30
    assert not [text for text, formulation in ids.items() if formulation.startswith("text:")]


@pytest.mark.parametrize(
    ("text", "formulation"),
    [
        ("softmax(q @ k.T + bias) @ v, padding zeroed", "dense"),
        ("block_mask 128x128", "block_mask:128x128"),
        ("block_mask 256x128, BACKEND=FLASH", "block_mask:256x128,BACKEND=FLASH"),
        ("no mask, BACKEND=FLASH", "no_mask,BACKEND=FLASH"),
        ("window_size=(256, 0)", "window"),
        ("varlen_attn, window_size=(-1, 0)", "varlen:causal"),
        (
            "2 residue streams as heads, varlen_attn, window_size=(256, 256)",
            "residue_streams:varlen:window",
        ),
        ("valid tokens alone, BlockDiagonalCausalMask", "unpadded:varlen:causal"),
        ("mask_mod + block sparsity 128x128", "mask_mod:128x128"),
        ("warm cache", "warm_cache"),
        ("valid tokens alone, by magic", "text:valid tokens alone, by magic"),
        ("", "text:"),
    ],
)
def test_text_has_its_id(text, formulation):
    assert legacy_formulation(text) == formulation


CPU_BACKENDS = [  # flex_tuned has flex's formulations
    s.name
    for s in registry.BACKENDS.values()
    if "cpu" in s.devices and is_available(s.name) and s.name != "flex_tuned"
]


@pytest.mark.parametrize("backend", CPU_BACKENDS)
def test_ids_of_backends_are_those_of_their_texts(backend):
    """The fakes of test_library_calls check the same for the CUDA libraries."""
    found = set()
    for mask in MASKS.values():
        tensor = torch.zeros(mask.batch or 2, 4, mask.seq_len, 64)
        try:
            call = registry.load(backend)(mask, tensor, tensor, tensor)
        except Unsupported:
            continue
        found.add(call.formulation)
        assert re.fullmatch(r"[\w:,=]+", call.formulation.id)
        if backend in ("dense", "flex") or backend.startswith("sdpa"):  # with runs saved as text
            assert legacy_formulation(call.formulation.text) == call.formulation.id
    assert found


def test_ids_of_block_mask_builders_are_those_of_their_texts():
    for builder in BUILDERS.values():
        assert legacy_formulation(builder.form) == builder.formulation
