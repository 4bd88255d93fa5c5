"""A pytest plugin: options are kept in the folder $TUNED_FOLDER, and few are searched."""

from __future__ import annotations

import os
from pathlib import Path

from maskbench.suite import tuned
from maskbench.suite.tuning import candidates

tuned.FOLDER = Path(os.environ["TUNED_FOLDER"])
candidates.CPU_BLOCK_SIZES = ((64, 64),)
