"""A line of the suite on the terminal."""

from __future__ import annotations

import pytest


def write_line(config: pytest.Config, text: str) -> None:
    """Write a line to the terminal, unless pytest has none (-p no:terminal)."""
    terminal = config.pluginmanager.get_plugin("terminalreporter")
    if terminal:
        terminal.write_line(f"maskbench: {text}")
