"""Names of cells as the reports print them."""

from __future__ import annotations


def short_name(fullname: str) -> str:
    """The parameters in a cell's node id: "causal-flex-s512-b1h4d64-float32"."""
    return fullname.rpartition("[")[2].rstrip("]")
