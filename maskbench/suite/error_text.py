"""The one line that a run saves and prints about an error."""

from __future__ import annotations

MAX_REASON = 1000  # characters


def describe_error(error: BaseException) -> str:
    """The error's type and the first line of its message."""
    try:
        lines = str(error).strip().splitlines()
    except Exception as another:  # a __str__ of a library
        lines = [f"its message raised {type(another).__name__}"]
    return f"{type(error).__name__}: {(lines or [''])[0]}"[:MAX_REASON]
