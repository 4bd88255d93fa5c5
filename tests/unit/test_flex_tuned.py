"""The backend `flex_tuned`: it replays what was found, and says what it does."""

from dataclasses import replace

import pytest
import torch

from maskbench.attention import BoundAttention, Formulation, Unsupported
from maskbench.backends import flex_tuned, registry
from maskbench.masks import Causal, SlidingWindow
from maskbench.records import Phase
from maskbench.suite import kernel_cache, tuned
from maskbench.suite.attention_call import check_attention
from maskbench.suite.device_name import device_name
from maskbench.suite.tuned import bind_tuned, existing_file
from maskbench.suite.workload import Shape, Workload, make_inputs_with_reference
from maskbench.tuned_options import DEFAULT_OPTIONS, write_entry
from tests.unit.pytest_process import CELLS, pytest_inline
from tests.unit.tuned_entries import PROBLEM, entry, found

WORKLOAD = Workload("causal", 512, Shape(1, 2, 2, 16), "float32", "cpu", Phase.FORWARD)
GPU = device_name("cpu")
CPU = ("--device=cpu", "--masks=causal", "--seq-lens=256", "--batch=1", "--heads=1")


@pytest.fixture
def store(monkeypatch, tmp_path):
    monkeypatch.setattr(tuned, "FOLDER", tmp_path)
    return tmp_path


@pytest.fixture
def checked():
    mask = WORKLOAD.build_mask()
    return make_inputs_with_reference(mask, WORKLOAD.shape, "float32", "cpu", False)


def test_found_options_are_replayed_and_right(store, checked, device):
    """The one test here that compiles: another BLOCK_SIZE gives another kernel."""
    if device != "cpu":
        pytest.skip("the entry is of a CPU")
    write_entry(entry(found(block_size=(64, 64)), gpu=GPU), store)
    call = bind_tuned(WORKLOAD)(WORKLOAD.build_mask(), *checked.inputs[:3])
    assert call.formulation == Formulation("block_mask:64x64", "block_mask 64x64")
    comparison, _ = check_attention(call, checked)
    assert comparison.within_tolerance


@pytest.fixture
def compiled(monkeypatch):
    """The options that are compiled; nothing is. `compiled.failing` raise in their first call."""

    class Compiled(list):
        failing = ()

    made = Compiled()

    def compile_with_options(options, mask, q, k, v):
        made.append(options)

        def forward(q, k, v):
            if options in made.failing:
                raise RuntimeError("no kernel image is available\nfor this GPU")
            return q

        return BoundAttention(Formulation(str(options), str(options)), (q, k, v), forward)

    monkeypatch.setattr(flex_tuned, "compile_with_options", compile_with_options)
    return made


def bind(checked):
    return bind_tuned(WORKLOAD)(WORKLOAD.build_mask(), *checked.inputs[:3])


def test_the_fastest_is_used(store, checked, compiled):
    first, second = found(a=1), found(a=2)
    write_entry(entry(first, second, gpu=GPU), store)
    assert bind(checked).formulation.text == "a=1"
    assert compiled == [first.options]


def test_the_default_that_is_best_is_replayed(store, checked, compiled):
    write_entry(entry(gpu=GPU), store)
    call = bind(checked)
    assert call.formulation == Formulation("default", "default; default is best")
    assert compiled == [DEFAULT_OPTIONS]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"torch": "2.8.0", "gpu": GPU}, "found with torch 2.8.0"),
        ({"gpu": "NVIDIA_A100"}, "found on NVIDIA_A100"),
        ({"torch": "2.8.0", "gpu": "NVIDIA_A100"}, "found with torch 2.8.0 on NVIDIA_A100"),
    ],
)
def test_options_of_another_torch_or_gpu_are_used_and_say_so(
    store, checked, compiled, fields, said
):
    write_entry(entry(found(a=1), **fields), store)
    assert bind(checked).formulation == Formulation("a=1", f"a=1; {said}")
    assert existing_file(WORKLOAD) is None


def test_a_file_that_cannot_be_used_is_named_when_another_one_is(store, checked, compiled):
    own = write_entry(entry(found(a=1), gpu=GPU), store)
    own.write_text("{")
    other = write_entry(entry(found(a=2), gpu="NVIDIA_A100"), store)
    with pytest.warns(UserWarning, match=f"flex_tuned uses {other} instead of {own}: is damaged"):
        assert bind(checked).formulation.text == "a=2; found on NVIDIA_A100"


def test_foreign_options_that_do_not_work_are_ignored_with_a_warning(store, checked, compiled):
    first, second = found(a=1), found(a=2)
    write_entry(entry(first, second, torch="2.8.0", gpu=GPU), store)
    compiled.failing = (first.options,)
    with pytest.warns(UserWarning, match="ignores a=1: RuntimeError: no kernel image"):
        assert bind(checked).formulation.text == "a=2; found with torch 2.8.0"
    compiled.failing = (first.options, second.options)
    with pytest.warns(UserWarning, match="ignores a=1: RuntimeError: no kernel image") as warned:
        call = bind(checked)
    assert len(warned) == 2
    assert "\n" not in str(warned[0].message)
    text = "default; the found ones do not work here, found with torch 2.8.0"
    assert call.formulation.text == text


def test_own_options_that_do_not_work_fail_the_cell(store, checked, compiled):
    options = found(a=1)
    write_entry(entry(options, gpu=GPU), store)
    compiled.failing = (options.options,)
    call = bind(checked)
    with pytest.raises(RuntimeError, match="no kernel image"):
        call.forward(*call.inputs)


def test_without_flash_attention_the_next_options_are_used(store, checked, compiled, monkeypatch):
    without_flash = _without_flash(flex_tuned.compile_with_options)
    monkeypatch.setattr(flex_tuned, "compile_with_options", without_flash)
    write_entry(entry(found(BACKEND="FLASH"), found(a=2), gpu=GPU), store)
    with pytest.warns(UserWarning, match="ignores BACKEND=FLASH: BackendUnavailable: No module"):
        assert bind(checked).formulation.text == "a=2"


def _without_flash(compile_with_options):
    def compile_others(options, *arguments):
        if options.uses_flash:
            raise registry.BackendUnavailable("No module named 'flash_attn'")
        return compile_with_options(options, *arguments)

    return compile_others


def test_an_option_that_the_mask_does_not_allow_is_not_used():
    """As when the file of an own mask was changed after the search."""
    options = found(fwd_BLOCKS_ARE_CONTIGUOUS=True, fwd_ROWS_GUARANTEED_SAFE=True).options
    q = torch.zeros(1, 1, 512, 16)
    with pytest.raises(
        flex_tuned.OptionNotAllowed, match="does not allow fwd_ROWS_GUARANTEED_SAFE"
    ):
        flex_tuned.compile_with_options(options, SlidingWindow(63, 0, seq_len=512), q, q, q)
    flex_tuned.compile_with_options(options, Causal(seq_len=512), q, q, q)


def test_without_a_name_it_says_what_it_needs():
    q = torch.zeros(1, 1, 64, 16)
    with pytest.raises(Unsupported, match="stored by the name of a cell's mask"):
        registry.load("flex_tuned")(Causal(seq_len=64), q, q, q)


def test_nothing_found_names_the_command(store):
    with pytest.raises(
        tuned.OptionsNotFound, match=r"run python -m pytest -m tune tests/test_tune\.py"
    ):
        bind_tuned(WORKLOAD)


def test_a_cell_that_no_search_could_help_names_no_command(store):
    """The command would skip it, for the same reason."""
    text = pytest_inline("-q", *CPU, "--backends=flex_tuned", CELLS[1], expect=4)
    assert "FlexAttention does not support backward on CPU" in text
    assert "-m tune" not in text
    assert "were not run" not in text  # the error says why
    text = pytest_inline("-q", *CPU, "--backends=flex_tuned,sdpa", CELLS[1])
    assert "unsupported: FlexAttention does not support backward on CPU." in text
    assert "-m tune" not in text


def test_shapes_are_checked(store, checked):
    write_entry(entry(gpu=GPU), store)
    with pytest.raises(ValueError, match="256"):
        bind_tuned(WORKLOAD)(Causal(seq_len=256), *checked.inputs[:3])


def test_kernels_are_compiled_again_when_the_entry_changes(store):
    """The stamp of a compiled cell depends on the entry's file."""
    mask = WORKLOAD.build_mask()
    stamps = {kernel_cache.stamp_path(WORKLOAD, mask, "flex_tuned")}
    for options in ([], [found(a=1)], [found(a=2)]):
        write_entry(entry(*options, gpu=GPU), store)
        stamps.add(kernel_cache.stamp_path(WORKLOAD, mask, "flex_tuned"))
    assert len(stamps) == 4
    other = replace(WORKLOAD, phase=Phase.BACKWARD)
    assert tuned.problem_of(WORKLOAD) == PROBLEM
    assert tuned.problem_of(other).direction == "backward"
