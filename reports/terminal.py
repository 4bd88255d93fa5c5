"""What the commands print. Its texts are from saved runs and file names, made by others."""

from __future__ import annotations

import sys
from io import TextIOWrapper

from maskbench.plain_text import plain_text


def allow_all_characters() -> None:
    """Print an escape for each character that the terminal's encoding lacks, such as ASCII's."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def say(text: str) -> None:
    """Print lines."""
    print("\n".join(map(plain_text, text.split("\n"))), flush=True)


def complain(text: str) -> None:
    """Print an error or a warning as one line."""
    print(plain_text(f"reports: {text}"), file=sys.stderr, flush=True)
