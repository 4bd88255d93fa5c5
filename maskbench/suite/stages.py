"""Wall time of this process, by stage: warm up, compile ahead, compile, check, time, other."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

SESSION_START = time.perf_counter()
STAGE_SECONDS: defaultdict[str, float] = defaultdict(float)


@contextmanager
def stage_timer(stage: str) -> Iterator[None]:
    """Add the wall time of the block to `stage`, even if the block raises."""
    start = time.perf_counter()
    try:
        yield
    finally:
        STAGE_SECONDS[stage] += time.perf_counter() - start


def time_breakdown() -> dict[str, float]:
    """Seconds of each stage since the process started, with "other" and "total"."""
    total = time.perf_counter() - SESSION_START
    return {**STAGE_SECONDS, "other": total - sum(STAGE_SECONDS.values()), "total": total}
