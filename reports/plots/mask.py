"""A small instance of a mask as a picture: queries from top to bottom, keys from left to right."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure

from masks import PATTERNS
from reports.plots.style import BLUE

MASKED, PADDING = 0, 2  # 1 is an attended key
COLORS = ListedColormap(["#F2F2F2", BLUE, "#C8C8C8"])  # of 0, 1 and 2


def draw(name: str) -> Figure:
    """Draw the example of the pattern `name`: 32 tokens, or 64 if the mask is two-dimensional."""
    mask = PATTERNS[name].example
    values = mask.dense("cpu")[0, 0].numpy().astype(int)
    fully_masked = mask.fully_masked_rows("cpu")
    if fully_masked is not None:  # such a token is padding, as a query and as a key
        padding = fully_masked[0, 0, :, 0].numpy()
        values[padding, :] = PADDING
        values[:, padding] = PADDING
    n = mask.seq_len
    figure, axes = plt.subplots(figsize=(3.4, 3.6))
    axes.imshow(values, cmap=COLORS, vmin=MASKED, vmax=PADDING)
    axes.set_xticks(np.arange(-0.5, n), minor=True)
    axes.set_yticks(np.arange(-0.5, n), minor=True)
    axes.grid(which="minor", color="white", linewidth=0.5)
    axes.tick_params(which="both", length=0)
    axes.set_xticks(range(0, n, n // 4))
    axes.set_yticks(range(0, n, n // 4))
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.set_xlabel("key" + (" (grey: padding)" if fully_masked is not None else ""))
    axes.set_ylabel("query")
    axes.set_title(name)
    return figure
