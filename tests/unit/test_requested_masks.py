"""The masks of --masks: names, parameters, and masks of the user's own files."""

import pickle
import sys

import pytest
import torch

from maskbench.masks import Documents, FromMaskMod, SlidingWindow
from maskbench.suite.option_parsing import parse_config
from maskbench.suite.requested_masks import (
    REQUESTED,
    MaskRequest,
    build_mask,
    request_masks,
    split_masks,
)
from maskbench.suite.user_masks import MaskSize, UnusableMask
from maskbench.suite.workload import Shape
from tests.unit.pytest_process import CELLS, pytest_inline, pytest_run, strict_json
from tests.unit.test_options import options

OWN = """
import torch
from dataclasses import dataclass, field
from maskbench.masks import EXTENT, Causal, Documents, FromMaskMod, LastQueries, Mask

def sinks(b, h, q_idx, kv_idx):
    return (q_idx >= kv_idx) & ((q_idx - kv_idx < 64) | (kv_idx < 4))

def near(b, h, q, k, width=8):
    return (q - k).abs() < width

def packed(seq_len, batch, device, parts=3):
    document = (torch.arange(seq_len, device=device) * parts // seq_len).int()
    return lambda b, h, q, k: (document[q] == document[k]) & (q >= k)

def halves(seq_len):
    return Documents((seq_len // 2, seq_len - seq_len // 2), Causal(seq_len=seq_len))

@dataclass(frozen=True)
class Window(Mask):
    width: int = field(metadata=EXTENT, default=64)

    def mask_mod(self, device):
        return lambda b, h, q, k: (k <= q) & (k > q - self.width)

by_head = lambda b, h, q, k: (q >= k) & (q - k < 8 * (h + 1))
fixed = Causal(seq_len=300)
number = 3
on_meta = torch.arange(300, device="meta")

def three(b, h, q): return q > 0
def numbers(b, h, q, k): return q - k
def raises(b, h, q, k): return q.nothing
def branches(b, h, q, k): return q >= k if q.sum() >= 0 else q < k
def elsewhere(b, h, q, k): return on_meta[q] >= on_meta[k]
def broken_factory(seq_len): raise KeyError("tokens")
def two_lines(seq_len): raise ValueError("first\\nsecond")
def leaves(seq_len): raise SystemExit(3)
def leaves_later(b, h, q, k): raise SystemExit(3)
def short_table(b, h, q, k): return torch.arange(50)[q] == k
def square(b, h, q, k): return torch.ones(3, 3, dtype=torch.bool)

def two_elements(seq_len): return Documents(((seq_len,), (1, seq_len - 1)), Causal(seq_len=seq_len))
def two_heads(seq_len): return FromMaskMod(by_head, None, 2, seq_len=seq_len)
def last(seq_len): return LastQueries(Causal(seq_len=seq_len), 5)

@dataclass(frozen=True)
class NoDevice(Mask):
    def mask_mod(self): return sinks
"""


@pytest.fixture
def own(tmp_path):
    """The path of a file with masks of the user."""
    path = tmp_path / "own.py"
    path.write_text(OWN)
    yield path
    REQUESTED.clear()


def size(seq_len=300, batch=2, heads=4):
    return MaskSize(seq_len, batch, heads, "cpu")


def test_commas_inside_parentheses_do_not_split():
    text = "full, my.py:f(a=1, b=(2,3)),,causal(left=1)"
    assert split_masks(text) == ["full", "my.py:f(a=1, b=(2,3))", "causal(left=1)"]


def test_parameters_are_part_of_the_name():
    names = request_masks(MaskRequest(("causal", "causal_sliding_window( left = 1023 )")))
    assert names == ["causal", "causal_sliding_window(left=1023)"]
    built = build_mask(names[1], size(seq_len=3000))
    assert built == SlidingWindow(1023, 0, seq_len=3000)


def test_every_kind_of_own_mask_is_built(own):
    kinds = ("sinks", "packed(parts=4)", "halves", "Window(width=9)", "by_head", "fixed")
    names = request_masks(MaskRequest(tuple(f"{own}:{kind}" for kind in kinds)))
    assert names == [f"own.{kind}" for kind in kinds]
    masks = [build_mask(name, size()) for name in names]
    assert [type(mask).__name__ for mask in masks] == [
        *("FromMaskMod", "FromMaskMod", "Documents", "Window", "FromMaskMod", "Causal")
    ]
    q, k = torch.arange(300)[:, None], torch.arange(300)
    sinks = (q >= k) & ((q - k < 64) | (k < 4))
    assert torch.equal(masks[0].dense("cpu")[0, 0], sinks)
    assert torch.equal(masks[1].dense("cpu")[0, 0], (q // 75 == k // 75) & (q >= k))
    assert masks[3].width == 9
    assert masks[4].heads == 4
    assert masks[4].batch is None
    assert [m.area(2) for m in masks] == [2 * int(m.dense("cpu").sum()) for m in masks]


@pytest.mark.parametrize(("text", "width"), [("near", 8), ("near(width=3)", 3)])
def test_the_arguments_of_a_function_are_its_parameters(own, text, width):
    (name,) = request_masks(MaskRequest((f"{own}:{text}",)))
    mask = build_mask(name, size())
    q, k = torch.arange(300)[:, None], torch.arange(300)
    assert torch.equal(mask.dense("cpu")[0, 0], (q - k).abs() < width)


def test_a_file_imports_the_files_beside_it(tmp_path):
    (tmp_path / "beside_own_masks.py").write_text("WIDTH = 5")
    (tmp_path / "importing.py").write_text(
        "from beside_own_masks import WIDTH\ndef near(b, h, q, k): return (q - k).abs() < WIDTH"
    )
    before = list(sys.path)
    (name,) = request_masks(MaskRequest((f"{tmp_path}/importing.py:near",)))
    assert build_mask(name, size()).area(1) == 300 * 9 - 20
    assert sys.path == before


def test_two_files_with_one_name_are_refused(own, tmp_path):
    other = tmp_path / "other" / "own.py"
    other.parent.mkdir()
    other.write_text(OWN)
    with pytest.raises(UnusableMask, match=r"both have a mask own\.sinks; rename one of the files"):
        request_masks(MaskRequest((f"{own}:sinks", f"{other}:sinks")))


WRONG = {
    "{folder}/none.py:sinks": "none.py: no such file",
    "{folder}:sinks": "no such file",
    "{folder}/text.txt:sinks": "is not a Python file (.py)",
    "{folder}/syntax.py:sinks": "SyntaxError in line 2",
    "{folder}/raising.py:sinks": "ZeroDivisionError in line 1: division by zero",
    "{own}:sink": "own.py has no sink; it has sinks, near, packed, halves, Window, by_head",
    "{own}:number": "is of type int; it must be a function (b, h, q_idx, kv_idx)",
    "{own}:three": "must take four arguments (b, h, q_idx, kv_idx)",
    "{own}:numbers": "returns torch.int32, must return a bool tensor",
    "{own}:raises": "raises AttributeError when called",
    "{own}:branches": "cannot be traced by torch.compile",
    "{own}:elsewhere": "captures the tensor on_meta on meta; the run is on cpu",
    "{own}:broken_factory": "KeyError: 'tokens'",
    "{own}:two_elements": "is for a batch of 2, not of 1",
    "{own}:two_heads": "is for 2 heads, not for 4",
    "{own}:last": "has 5 queries; choose their number with --q-lens",
    "{own}:fixed": "is for 300 tokens, not for 512",
    "{own}:packed(pieces=4)": "has no parameter pieces; it has parts",
    "{own}:packed(seq_len=4)": "has no parameter seq_len; it has parts",
    "{own}:packed(parts=4,parts=5)": "parts is given twice",
    "{own}:sinks(b=3)": "has no parameter b; it has none",
    "{own}:near(b=3)": "has no parameter b; it has width",
    "{own}:two_lines": "ValueError: first second",
    "{own}:leaves": "SystemExit: 3",
    "{own}:leaves_later": "raises SystemExit when called: 3",
    "{folder}/leaving.py:sinks": "SystemExit in line 1: 5",
    "{own}:short_table": "raises IndexError when called: index 511 is out of bounds",
    "{own}:square": "returns a tensor of shape (3, 3), which does not broadcast to",
    "{own}:NoDevice": "raises TypeError: NoDevice.mask_mod() takes 1 positional argument",
    "causal_sliding_window(left=3,left=4)": "left is given twice",
    "{own}:packed(4)": "parameters are written as name(parameter=number, ...)",
    "causal_sliding_window(left=__import__('os'))": "parameters are written as",
    "causal_sliding_window(left=3": "parameters are written as",
    "causal_sliding_window(width=3)": "has no parameter width; it has left=256",
    "causal_sliding_window(left=-1)": "(left=-1): left is -1, must be a whole number, 0 or more",
    "causal_sliding_window(left='3')": "left is 3, must be a whole number",
    "causal(left=3)": "causal has no parameter left; it has none",
    "{own}": "own.py: a mask of your own is written as FILE.py:NAME",
    "{own}:": "own.py:: a mask of your own is written as FILE.py:NAME",
    ":sinks": ":sinks: a mask of your own is written as FILE.py:NAME",
    "casual": "unknown casual; did you mean causal?",
}


@pytest.mark.parametrize("text", WRONG)
def test_a_wrong_request_is_one_sentence(text, own, tmp_path):
    for name, content in (
        ("text.txt", ""),
        ("syntax.py", "\ndef f(:"),
        ("raising.py", "1 / 0"),
        ("leaving.py", "raise SystemExit(5)"),
    ):
        (tmp_path / name).write_text(content)
    request = text.format(folder=tmp_path, own=own)
    with pytest.raises(pytest.UsageError) as refused:
        parse_config(options(masks=[request], seq_lens=["512"]))
    message = str(refused.value)
    assert message.startswith("--masks: ")
    assert WRONG[text] in message
    assert "\n" not in message


def test_document_lengths_are_for_masks_with_documents(tmp_path):
    lengths = tmp_path / "lengths.txt"
    lengths.write_text("100\n200\n")
    config = parse_config(
        options(
            masks=["causal", "multi_document_causal"],
            document_lengths=str(lengths),
            seq_lens=["450"],
            batch="2",
        )
    )
    assert config.masks == ["causal", "multi_document_causal(documents=lengths.txt)"]
    mask = build_mask(config.masks[1], size(seq_len=450))
    assert isinstance(mask, Documents)
    assert mask.elements == ((100, 200, 100, 50), (150, 100, 200))


def test_document_lengths_that_no_mask_takes_are_refused():
    with pytest.raises(pytest.UsageError, match="none of causal takes --document-lengths"):
        parse_config(options(masks=["causal"], document_lengths="equal"))


def test_wrong_document_lengths_are_a_usage_error(tmp_path):
    lengths = tmp_path / "lengths.txt"
    lengths.write_text("100\nmany\n")
    given = options(masks=["multi_document_causal"], document_lengths=str(lengths))
    with pytest.raises(pytest.UsageError, match=r"^--document-lengths: .*lengths\.txt.*line 2"):
        parse_config(given)


def test_no_document_lengths_are_a_usage_error():
    given = options(masks=["multi_document_causal"], document_lengths="")
    with pytest.raises(pytest.UsageError, match=r"^--document-lengths: names no file"):
        parse_config(given)


def test_files_of_one_name_are_modules_of_their_own(tmp_path):
    texts = []
    for folder, width in (("a", 2), ("b", 5)):
        path = tmp_path / folder / "my.masks.py"
        path.parent.mkdir()
        path.write_text(
            f"WIDTH = {width}\ndef near_{folder}(b, h, q, k): return (q - k).abs() < WIDTH"
        )
        texts.append(f"{path}:near_{folder}")
    names = request_masks(MaskRequest(tuple(texts)))
    masks = pickle.loads(pickle.dumps([build_mask(name, size()) for name in names]))
    assert [mask.area(1) for mask in masks] == [300 * 3 - 2, 300 * 9 - 20]


def test_a_model_sets_what_no_option_sets():
    config = parse_config(options(model="llama-3.1-8b", heads="16"))
    assert config.shape == Shape(1, 16, 16, 128), "16 heads are not the model's"
    config = parse_config(options(model="llama-3.1-8b"))
    assert config.shape == Shape(1, 32, 8, 128)
    assert config.masks == ["causal"]
    config = parse_config(options(model="deepseek-v3", masks=["full"]))
    assert (config.shape.head_dim, config.shape.v_head_dim) == (192, 128)
    assert str(config.shape).endswith("d192v128")
    assert config.masks == ["full"]


def test_a_request_can_be_sent_to_another_process(own):
    request = MaskRequest((f"{own}:packed",))
    assert pickle.loads(pickle.dumps(request)) == request
    (name,) = request_masks(request)
    assert isinstance(build_mask(name, size()), FromMaskMod)


def test_own_masks_and_last_queries_are_timed_and_saved(own, tmp_path):
    saved = tmp_path / "run.json"
    grid = (
        *("--device", "cpu", "--seq-lens", 300, "--q-lens", "1,300", "--heads", 4),
        *("--kv-heads", 2, "--v-head-dim", 32, "--backends", "dense,sdpa"),
        *("--masks", f"{own}:sinks,{own}:by_head,causal_sliding_window(left=20)"),
    )
    quick = ("--benchmark-only", "--benchmark-max-time=0.01", f"--benchmark-json={saved}")
    text = pytest_run(*quick, *grid, CELLS[0])
    assert "12 passed" in text
    cells = {bench["name"]: bench["extra_info"] for bench in strict_json(saved)["benchmarks"]}
    info = cells["test_forward[own.sinks-sdpa-s300-q1-b1h4kv2d64v32-float32]"]
    assert (info["q_len"], info["v_head_dim"], info["area"]) == (1, 32, 68)
    assert info["gb_per_s"] > 0
    assert "q_len" not in cells["test_forward[own.by_head-dense-s300-b1h4kv2d64v32-float32]"]


def test_a_run_that_can_time_nothing_says_why():
    only = ("--device", "cpu", "--benchmark-only", "--seq-lens", 512, CELLS[0])
    text = pytest_inline(*only, "--backends", "sdpa_cudnn,xformers", expect=4)
    assert "no cell can be timed: sdpa_cudnn runs on cuda only" in text
    assert "xformers runs on cuda only" in text
    text = pytest_inline(*only, "--masks", "multi_document_causal", "--seq-lens", 3, expect=4)
    assert "no cell can be timed: " in text
