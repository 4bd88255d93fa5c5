"""A mask as a picture: a small instance of it, queries down, keys across."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure

from masks import PATTERNS
from reports.plots.style import BLUE


def draw(name: str) -> Figure:
    """The pattern's picture mask at 32 tokens, 64 for the 2-D one."""
    mask = PATTERNS[name].example
    allowed = mask.dense("cpu")[0, 0].numpy()
    shade = allowed.astype(int)
    empty = mask.fully_masked_rows("cpu")
    if empty is not None:  # padding takes no part, as a query or as a key
        padding = empty[0, 0, :, 0].numpy()
        shade[padding, :] = 2
        shade[:, padding] = 2
    n = mask.seq_len
    figure, axes = plt.subplots(figsize=(3.4, 3.6))
    axes.imshow(shade, cmap=ListedColormap(["#F2F2F2", BLUE, "#C8C8C8"]), vmin=0, vmax=2)
    axes.set_xticks(np.arange(-0.5, n), minor=True)
    axes.set_yticks(np.arange(-0.5, n), minor=True)
    axes.grid(which="minor", color="white", linewidth=0.5)
    axes.tick_params(which="both", length=0)
    axes.set_xticks(range(0, n, n // 4))
    axes.set_yticks(range(0, n, n // 4))
    for side in axes.spines.values():
        side.set_visible(False)
    axes.set_xlabel("key" + (" (grey: padding)" if empty is not None else ""))
    axes.set_ylabel("query")
    axes.set_title(name, fontsize=9)
    return figure
