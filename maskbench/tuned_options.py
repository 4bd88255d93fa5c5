"""Options of FlexAttention that were found for a problem, and the files that store them.

`pytest -m tune` writes a file for each problem and GPU, reports/tuned/GPU/PROBLEM.json. The
backend `flex_tuned` replays them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from maskbench.whole_files import write_whole

FORMAT = 1
FOLDER = Path(__file__).parents[1] / "reports" / "tuned"
MAX_NAME = 100  # characters of a file's name
MAX_TEXT = 10_000
MIN_SPEEDUP = 0.005  # beyond the intervals: two processes differ by about as much
Value = bool | int | str
Size = Annotated[int, Meta(ge=1, le=2**31)]
Name = Annotated[str, Meta(max_length=200)]
Text = Annotated[str, Meta(max_length=MAX_TEXT)]
Number = Annotated[float, Meta(ge=0, le=1e9)]
Positive = Annotated[float, Meta(gt=0, le=1e9)]


@dataclass(frozen=True)
class FlexOptions:
    """What the caller of FlexAttention chooses, and what does not change the result.

    Parameters
    ----------
    kernel
        Names and values of `kernel_options`, in the order in which they are shown. Options that
        exist in both directions have the prefix fwd_ or bwd_.
    block_size
        The block mask's BLOCK_SIZE: queries and keys of a block.
    """

    kernel: tuple[tuple[str, Value], ...] = ()
    block_size: tuple[int, int] = (128, 128)

    @property
    def kernel_options(self) -> dict[str, Value]:
        """As FlexAttention takes them."""
        return dict(self.kernel)

    @property
    def uses_flash(self) -> bool:
        """Whether the kernel is FlashAttention-4's."""
        return self.kernel_options.get("BACKEND") == "FLASH"

    def with_kernel(self, options: Mapping[str, Value]) -> FlexOptions:
        """The same options with others added or replaced."""
        return FlexOptions(tuple({**self.kernel_options, **options}.items()), self.block_size)

    def with_block_size(self, size: tuple[int, int]) -> FlexOptions:
        """The same kernel options with another block mask."""
        return FlexOptions(self.kernel, size)

    def __str__(self) -> str:
        parts = [f"{name}={value}" for name, value in self.kernel]
        if self.block_size != (128, 128):
            parts.append("BLOCK_SIZE={}x{}".format(*self.block_size))
        return ", ".join(parts) or "default"


DEFAULT_OPTIONS = FlexOptions()


class Problem(Struct, frozen=True, kw_only=True):
    """What determines the fastest options, beside the GPU and the version of torch.

    `mask` is its name in node ids, with parameters. `q_len` is None for all queries.
    """

    mask: Name
    direction: Literal["forward", "backward"]
    seq_len: Size
    q_len: Size | None
    batch: Size
    heads: Size
    kv_heads: Size
    head_dim: Size
    v_head_dim: Size | None
    dtype: Name
    device: Literal["cuda", "cpu"]

    def __str__(self) -> str:
        queries = f"q{self.q_len}-" if self.q_len else ""
        grouped = f"kv{self.kv_heads}" if self.kv_heads != self.heads else ""
        of_v = f"v{self.v_head_dim}" if self.v_head_dim else ""
        shape = f"b{self.batch}h{self.heads}{grouped}d{self.head_dim}{of_v}"
        return f"{self.mask}-{self.direction}-s{self.seq_len}-{queries}{shape}-{self.dtype}"

    @property
    def file_name(self) -> str:
        """A name that every file system takes. One that had to be changed ends in a hash."""
        text = str(self)
        name = re.sub(r"[^A-Za-z0-9_-]", "_", text)[:MAX_NAME]
        digest = f"-{sha256(text.encode(errors='replace')).hexdigest()[:8]}" if name != text else ""
        return f"{name}{digest}.json"


class Found(Struct, frozen=True, kw_only=True):
    """Options that are faster than the default.

    `gain` is the default's time divided by theirs, the median over pairs of rounds. `interval` is
    the half-width of its 95 % confidence interval, relative to it. `seconds` is their median time.
    """

    kernel_options: dict[Name, Value]
    block_size: tuple[Size, Size]
    gain: Positive
    interval: Number
    seconds: Positive

    @property
    def options(self) -> FlexOptions:
        return FlexOptions(tuple(self.kernel_options.items()), self.block_size)


class Dropped(Struct, frozen=True):
    """Options that cannot be used: they do not compile, or their result is wrong.

    Files without `TunedEntry.screening` also have those that were slower than the best.
    """

    options: Text
    reason: Text


class Timed(Struct, frozen=True):
    """Options with their time in screening, in seconds."""

    options: Text
    seconds: Positive


class TunedEntry(Struct, kw_only=True):
    """The result of one search.

    Parameters
    ----------
    gpu, torch, triton, saved
        Where and when it was found. `gpu` is the name of the folder.
    default_s
        The median time of FlexAttention's default options, in seconds.
    found
        The fastest options, then the fastest without FlashAttention-4. Only those that are faster
        than the default beyond noise; if there are none, the default is best.
    max_autotune_gain, max_autotune_interval, max_autotune_problem
        The default's time divided by that of torch.compile's mode "max-autotune-no-cudagraphs",
        and the half-width of its 95 % confidence interval, relative to it; or why it has no time.
    tried
        How many options were compiled.
    search_s, compile_s
        Wall time of the search, and the time of its compilations over all workers, in seconds.
    screening
        All options that could run, the default among them, fastest first. These times are less
        precise than gains: each was taken in another process.
    mask_digest
        Differs for two masks of one name, such as the versions of a user's file.
    """

    format: int = FORMAT
    problem: Problem
    gpu: Name
    torch: Name
    triton: Name | None
    saved: Name
    default_s: Positive
    found: list[Found]
    max_autotune_gain: Positive | None
    max_autotune_problem: Text | None
    tried: int
    search_s: Number
    compile_s: Number
    dropped: list[Dropped]
    max_autotune_interval: Number | None = None
    screening: list[Timed] = []
    mask_digest: Name | None = None

    def max_autotune_speedup(self, found: Found | None) -> float | None:
        """How many times as fast as these options those of torch's own search are.

        `found` None stands for the default. The result is None if they are not faster by more than
        both intervals together and `MIN_SPEEDUP`.
        """
        if self.max_autotune_gain is None:
            return None
        gain, interval = (found.gain, found.interval) if found else (1.0, 0.0)
        speedup = self.max_autotune_gain / gain
        noise = interval + (self.max_autotune_interval or 0.0)
        return speedup if speedup * (1 - noise) > 1 + MIN_SPEEDUP else None


class UnusableEntry(Exception):
    """A file that is no whole entry of this format. The message names the file and the reason."""


class FormatHead(Struct):
    format: int


def read_entry(path: Path) -> TunedEntry:
    """Read a file.

    Raises
    ------
    UnusableEntry
        If it is damaged, or of another format.
    OSError
        If it cannot be read, such as FileNotFoundError.
    """
    content = path.read_bytes()
    try:
        found = msgspec.json.decode(content, type=FormatHead).format
        if found != FORMAT:
            raise UnusableEntry(f"{path}: is of format {found}; this version reads {FORMAT}")
        return msgspec.json.decode(content, type=TunedEntry)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UnusableEntry(f"{path}: is damaged: {error}") from error


def write_entry(entry: TunedEntry, folder: Path) -> Path:
    """Write or replace the entry's file whole, and return its path. Raises OSError."""
    path = folder / entry.gpu / entry.problem.file_name
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, msgspec.json.format(msgspec.json.encode(entry), indent=2) + b"\n")
    return path


def entry_paths(folder: Path) -> Iterator[Path]:
    """All files of entries, in order of GPU and name."""
    yield from sorted(folder.glob("*/*.json"))


@dataclass(frozen=True)
class Lookup:
    """What the files say about a problem.

    `path` is the file that is used, or that a search would write. `entry` is None if there is none
    that can be used. `unusable` says why files were ignored, a line each.
    """

    path: Path
    entry: TunedEntry | None
    unusable: tuple[str, ...] = ()


def find_entry(
    problem: Problem,
    gpu: str,
    torch: str,
    folder: Path,
    is_same_mask: Callable[[str], bool] = lambda _: True,
) -> Lookup:
    """The entry of this GPU, else one of another GPU: one of this torch first, then the newest.

    `is_same_mask` gets the `mask_digest` of an entry that has one.
    """
    own = folder / gpu / problem.file_name
    others: list[tuple[bool, str, Path, TunedEntry]] = []
    unusable = []
    for path in [own, *sorted(folder.glob(f"*/{problem.file_name}"))]:
        try:
            entry = read_entry(path)
        except FileNotFoundError:
            continue
        except UnusableEntry as error:
            unusable.append(str(error))
            continue
        except OSError as error:
            unusable.append(f"{path}: cannot be read: {error.strerror}")
            continue
        if entry.problem != problem:
            unusable.append(f"{path}: is of {entry.problem}, not of {problem}")
            continue
        if entry.mask_digest is not None and not is_same_mask(entry.mask_digest):
            unusable.append(f"{path}: was searched for another version of the mask")
            continue
        if path == own:
            return Lookup(path, entry, tuple(unusable))
        others.append((entry.torch == torch, entry.saved, path, entry))
    if others:
        _, _, path, entry = max(others, key=lambda other: other[:3])
        return Lookup(path, entry, tuple(dict.fromkeys(unusable)))
    return Lookup(own, None, tuple(dict.fromkeys(unusable)))
