"""The command-line options, and the run that they describe."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypedDict

import pytest

from maskbench.backends.registry import BACKENDS
from maskbench.suite.models import MODELS
from maskbench.suite.requested_masks import MaskRequest, split_masks
from maskbench.suite.workload import Shape
from masks import PATTERNS


class Defaults(TypedDict):
    """The shape and data type of a run whose options do not set them."""

    batch: int
    heads: int
    kv_heads: int | None  # None for as many as heads
    head_dim: int
    v_head_dim: int | None  # None for the same as head_dim
    dtype: str
    masks: tuple[str, ...] | None  # None for all


DTYPES = ("float16", "bfloat16", "float32")
DEFAULTS: dict[str, Defaults] = {
    device: Defaults(
        batch=batch,
        heads=heads,
        kv_heads=None,
        head_dim=64,
        v_head_dim=None,
        dtype=dtype,
        masks=None,
    )
    for device, batch, heads, dtype in (("cuda", 8, 16, "float16"), ("cpu", 1, 4, "float32"))
}
SEQ_LENS = {"cuda": (1024, 4096, 16384), "cpu": (512, 1024, 2048)}
DEFAULT_LENGTH = {"cuda": 4096, "cpu": 512}  # for benchmarks that depend little on the length
CELL_TIMEOUT_S = 600.0  # the longest cells, compilations of 131072 tokens, take minutes
NEWEST_JOURNAL = "newest"  # of --resume without a file
MAX_GPU_JOBS = 16  # each compile worker takes some GPU memory


@dataclass(frozen=True)
class RunConfig:
    """The options, checked and completed with defaults."""

    device: str
    masks: list[str]
    mask_request: MaskRequest
    backends: list[str]
    backends_named: bool  # whether --backends was given
    seq_lens: list[int]
    seq_lens_named: bool  # whether --seq-lens was given
    q_lens: list[int | None]  # None for all queries
    shape: Shape
    jobs: int
    dtype: str

    @property
    def default_seq_lens(self) -> list[int]:
        """Lengths for benchmarks that depend little on the length: those requested, else one."""
        return self.seq_lens if self.seq_lens_named else [DEFAULT_LENGTH[self.device]]


RUN_CONFIG = pytest.StashKey[RunConfig]()


def benchmarking(config: pytest.Config) -> bool:
    """Whether this session times anything, as pytest-benchmark's options say."""
    option = config.option
    skip = option.benchmark_skip and not option.benchmark_only
    disable = option.benchmark_disable and not option.benchmark_enable
    is_xdist_worker = hasattr(config, "workerinput")
    return not (skip or disable or option.collectonly or is_xdist_worker)


def add_options(parser: pytest.Parser) -> None:
    """Add the suite's options to `pytest --help`."""
    group = parser.getgroup("maskbench", "maskbench: attention masks, backends and shapes")

    def split(text: str) -> list[str]:
        return [part.strip() for part in text.split(",") if part.strip()]

    def by_device(values: dict[str, object], separator: str = ", ") -> str:
        return separator.join(f"{value} on {device}" for device, value in values.items())

    batch = by_device({device: d["batch"] for device, d in DEFAULTS.items()})
    heads = by_device({device: d["heads"] for device, d in DEFAULTS.items()})
    head_dim = by_device({device: d["head_dim"] for device, d in DEFAULTS.items()})
    dtype = by_device({device: d["dtype"] for device, d in DEFAULTS.items()})
    lengths = by_device({device: ",".join(map(str, n)) for device, n in SEQ_LENS.items()}, "; ")
    with_scores = " and ".join(s.name for s in BACKENDS.values() if s.materializes_scores)
    group.addoption("--device", help="cuda or cpu. Default: cuda where there is a GPU, else cpu.")
    group.addoption(
        "--masks",
        type=split_masks,
        help="Masks, comma-separated: a name, a name with parameters such as "
        "causal_sliding_window(left=1023), or FILE.py:NAME for a mask of your own. "
        f"Default: all: {', '.join(PATTERNS)}.",
    )
    group.addoption(
        "--backends",
        type=split,
        help=f"Backends, comma-separated. Default: all: {', '.join(BACKENDS)}; "
        f"{with_scores} up to S = 2048 unless named.",
    )
    group.addoption(
        "--seq-lens", type=split, help=f"Sequence lengths, comma-separated. Default: {lengths}."
    )
    group.addoption(
        "--q-lens",
        type=split,
        help="Numbers of queries, comma-separated: only the last queries of each mask, over all "
        "its keys, as in decoding and chunked prefill. Default: all queries.",
    )
    group.addoption(
        "--document-lengths",
        metavar="LENGTHS",
        help="Lengths of packed documents for the masks that have documents: a file with a number "
        "a line or a JSON list, or lognormal, uniform or equal. Default: five documents.",
    )
    group.addoption(
        "--model",
        help="Take the masks, heads, head dimensions and data type of a model; options beside it "
        f"win. One of {', '.join(MODELS)}.",
    )
    group.addoption("--batch", help=f"Batch size. Default: {batch}.")
    group.addoption("--heads", help=f"Query heads. Default: {heads}.")
    group.addoption(
        "--kv-heads", help="Key/value heads, a divisor of --heads. Default: as --heads."
    )
    group.addoption("--head-dim", help=f"Head dimension. Default: {head_dim}.")
    group.addoption("--v-head-dim", help="Head dimension of v. Default: as --head-dim.")
    group.addoption(
        "--jobs",
        help="Processes that compile before anything is timed. Default: one per CPU, "
        f"on a GPU at most {MAX_GPU_JOBS}.",
    )
    group.addoption("--dtype", help=f"{', '.join(DTYPES)}. Default: {dtype}.")
    group.addoption(
        "--resume",
        nargs="?",
        const=NEWEST_JOURNAL,
        metavar="JOURNAL",
        help="Go on with an interrupted run: the named journal, else the newest unfinished one of "
        "the same cells, machine and versions. What it has is not timed again. Default: a new run.",
    )
    group.addoption(
        "--cell-timeout",
        type=float,
        default=CELL_TIMEOUT_S,
        metavar="SECONDS",
        help="End a test that takes longer, and go on with the next one. 0 means no limit. "
        "Default: %(default)g.",
    )
    group.addoption(
        "--cuda-graphs",
        action="store_true",
        help="Also time each call as the replay of a CUDA graph. Needs a GPU. Default: no.",
    )
    group.addoption(
        "--gpus",
        metavar="N",
        help="Time on N GPUs at once, or on all: each problem on one of them. Default: one GPU.",
    )
