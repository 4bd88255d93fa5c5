"""Which options are tried for a problem: pure functions of the problem and the device.

The constraints are those of torch/_inductor/kernel/flex/.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

from maskbench.backends.flex_option_checks import BLOCKS_ARE_CONTIGUOUS, ROWS_GUARANTEED_SAFE
from maskbench.suite.tuning.tiles import (
    DECODE,
    FEW_QUERIES,
    FORWARD,
    SMALL_FORWARD,
    BackwardTile,
    ForwardTile,
    backward_tiles,
)
from maskbench.tuned_options import FlexOptions

HOPPER = (9, 0)  # the first GPU with a tensor memory accelerator
DECODE_QUERIES = 128  # FlexAttention has a kernel for fewer queries
SPLITS = (2, 4, 8, 16, 32, 64)  # of the keys among thread blocks, in decoding
CPU_BLOCK_SIZES = ((64, 64), (64, 128), (128, 256), (256, 256), (32, 512))


@dataclass(frozen=True)
class Target:
    """What the candidates depend on.

    Parameters
    ----------
    device
        "cuda" or "cpu".
    capability
        The GPU's compute capability; (0, 0) on a CPU.
    backward
        Whether the backward is tuned.
    is_half
        Whether the data type has 16 bits.
    head_dim
        The larger head dimension of q and v.
    q_len
        The number of queries.
    known
        The kernel options that this torch has (the keys of FlexKernelOptions).
    has_flash
        Whether FlashAttention-4 can be imported.
    has_block_mask
        Whether the call has a block mask; full attention has none.
    rows_are_safe, blocks_are_contiguous
        Whether the mask allows ROWS_GUARANTEED_SAFE with a tile of so many keys, and
        BLOCKS_ARE_CONTIGUOUS with such a block size.
    """

    device: str
    capability: tuple[int, int]
    backward: bool
    is_half: bool
    head_dim: int
    q_len: int
    known: Collection[str]
    has_flash: bool
    has_block_mask: bool
    rows_are_safe: Callable[[tuple[int, int], int], bool]
    blocks_are_contiguous: Callable[[tuple[int, int]], bool]

    @property
    def uses_decode_kernel(self) -> bool:
        """Whether FlexAttention uses its kernel for few queries."""
        return self.device == "cuda" and not self.backward and self.q_len < DECODE_QUERIES

    @property
    def prefix(self) -> str:
        """Of options that exist in both directions: only this direction's kernel gets them."""
        return "bwd_" if self.backward else "fwd_"


def first_candidates(target: Target) -> list[FlexOptions]:
    """The first round: tiles, warps and stages, and other kernels; without the default."""
    if target.device == "cpu":
        sizes = CPU_BLOCK_SIZES if target.has_block_mask else ()
        return [FlexOptions(block_size=size) for size in sizes]
    flash = [FlexOptions((("BACKEND", "FLASH"),))] if _takes_flash(target) else []
    if target.uses_decode_kernel:
        return [*flash, *_decode_tiles(), *_tiles_for_few_queries(target)]
    needs_small_tiles = target.head_dim > 128 or not target.is_half
    if target.backward:
        return [*flash, *map(_backward_options, backward_tiles(target.head_dim, needs_small_tiles))]
    return [*flash, *map(_forward_options, SMALL_FORWARD if needs_small_tiles else FORWARD)]


def _takes_flash(target: Target) -> bool:
    return target.has_flash and target.is_half and "BACKEND" in target.known


def _forward_options(tile: ForwardTile) -> FlexOptions:
    return FlexOptions(
        (
            ("fwd_BLOCK_M", tile.m),
            ("fwd_BLOCK_N", tile.n),
            ("fwd_num_warps", tile.warps),
            ("fwd_num_stages", tile.stages),
        )
    )


def _backward_options(tile: BackwardTile) -> FlexOptions:
    return FlexOptions(
        (
            ("bwd_BLOCK_M1", tile.m1),
            ("bwd_BLOCK_N1", tile.n1),
            ("bwd_BLOCK_M2", tile.m2),
            ("bwd_BLOCK_N2", tile.n2),
            ("bwd_num_warps", tile.warps),
            ("bwd_num_stages", tile.stages),
        )
    )


def _decode_tiles() -> list[FlexOptions]:
    return [
        FlexOptions((("fwd_BLOCK_N", n), ("fwd_num_warps", warps), ("fwd_num_stages", stages)))
        for n, warps, stages in DECODE
    ]


def _tiles_for_few_queries(target: Target) -> list[FlexOptions]:
    """The kernel for many queries, with small tiles of queries."""
    kernel = (
        ("BACKEND", "TRITON") if "BACKEND" in target.known else ("FORCE_USE_FLEX_ATTENTION", True)
    )
    return [_forward_options(tile).with_kernel(dict([kernel])) for tile in FEW_QUERIES]


def variants(options: FlexOptions, target: Target, *, with_block_sizes: bool) -> list[FlexOptions]:
    """The next round: the options with one more switch; also with other block sizes, if asked."""
    if target.device == "cpu" or options.uses_flash:
        return []
    is_decoding = target.uses_decode_kernel and not _forces_many_queries(options)
    changed = [options.with_kernel({name: True}) for name in _switches(options, target)]
    if is_decoding:
        changed += [options.with_kernel({"SPLIT_KV": n}) for n in SPLITS]
    sizes = _block_sizes(options, target) if with_block_sizes and target.has_block_mask else []
    return [*changed, *(options.with_block_size(size) for size in sizes)]


def _forces_many_queries(options: FlexOptions) -> bool:
    chosen = options.kernel_options
    return chosen.get("BACKEND") == "TRITON" or "FORCE_USE_FLEX_ATTENTION" in chosen


def _switches(options: FlexOptions, target: Target) -> list[str]:
    """The switches that this torch has, the GPU can use, and the mask allows."""
    found, is_decoding = [], target.uses_decode_kernel and not _forces_many_queries(options)
    if "PRESCALE_QK" in target.known:
        found.append("PRESCALE_QK")
    if "USE_TMA" in target.known and target.capability >= HOPPER:
        found.append("USE_TMA")
    # In decoding, each split of the keys starts at another tile; the backward has no such test.
    if ROWS_GUARANTEED_SAFE in target.known and not target.backward and not is_decoding:
        tile = options.kernel_options.get("fwd_BLOCK_N", 16)
        if isinstance(tile, int) and target.rows_are_safe(options.block_size, tile):
            found.append(ROWS_GUARANTEED_SAFE)
    if BLOCKS_ARE_CONTIGUOUS in target.known and target.blocks_are_contiguous(options.block_size):
        found.append(BLOCKS_ARE_CONTIGUOUS)
    return [f"{target.prefix}{name}" for name in found]


def _block_sizes(options: FlexOptions, target: Target) -> list[tuple[int, int]]:
    """Other block sizes that are multiples of the tile.

    The backward needs multiples of torch's own tiles, up to 128, whatever the options are.
    """
    if target.backward:
        return [(256, 256)]
    chosen = options.kernel_options
    m, n = chosen.get("fwd_BLOCK_M", 128), chosen.get("fwd_BLOCK_N", 128)
    sizes = [(128, 64), (64, 64), (64, 128), (256, 256)]
    return [
        (q, k)
        for q, k in sizes
        if isinstance(m, int) and isinstance(n, int) and q % m == 0 and k % n == 0
    ]


def combine(base: FlexOptions, improvements: Collection[FlexOptions]) -> FlexOptions:
    """`base` with the changes of all these variants of it."""
    combined = base
    for variant in improvements:
        combined = combined.with_kernel(variant.kernel_options)
        if variant.block_size != base.block_size:
            combined = combined.with_block_size(variant.block_size)
    return combined
