"""All that a page shows, as JSON."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from maskbench.records import Phase
from reports.comparability import load_history
from reports.page.cells import cell_columns
from reports.page.changes import comparison, trends
from reports.page.columns import numbers
from reports.page.kernel_options import found_options
from reports.page.mask_facts import mask_facts
from reports.page.setups import setups_of
from reports.plots.style import backend_styles, sorted_backends


def page_data(
    paths: list[Path], history: Path | None = None, acceptances: Path | None = None
) -> dict[str, Any]:
    """The data of a page of these runs.

    Parameters
    ----------
    paths
        Saved runs. Those of one device and one torch are shown together, as the parts of one run.
        If there are two that timed the same cells, they are also compared.
    history
        A folder with runs that are shown as trends; None if there are none.
    acceptances
        The file of accepted changes; None for the one in the folder of the history.

    Raises
    ------
    UnreadableRun
        If a file cannot be used, or nothing was timed.
    """
    setups = setups_of(paths)
    runs = [run for setup in setups for run in setup.runs]
    cells = pd.concat([setup.cells for setup in setups], ignore_index=True)
    number = np.repeat(np.arange(len(setups)), [len(setup.cells) for setup in setups])
    is_of_a_backend = [Phase(direction).is_of_a_backend for direction in cells["direction"]]
    backends = sorted_backends(cells["backend"][is_of_a_backend])
    styles = backend_styles(backends)
    past, notes = load_history(history, []) if history else ([], [])
    return {
        "setups": [setup.as_json() for setup in setups],
        "cells": {"setup": numbers(number), **cell_columns(cells)},
        "masks": mask_facts(cells),
        "backends": [
            {"name": name, "color": styles[name].color, "marker": styles[name].marker}
            for name in backends
        ],
        "options": found_options(set(cells["mask"])),
        "comparison": comparison(runs, past),
        "trends": trends(history, past, notes, acceptances) if history else None,
    }
