"""What each search has found, as a line on the terminal."""

from __future__ import annotations

import pytest

LINES = pytest.StashKey[list[str]]()  # of the cell that runs now


class ResultReporter:
    """A pytest plugin that writes the line of a cell after pytest's own letter or word."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        config.stash[LINES] = []

    @pytest.hookimpl(tryfirst=True)  # before the progress of the run
    def pytest_runtest_logfinish(self) -> None:
        lines, terminal = (
            self.config.stash[LINES],
            self.config.pluginmanager.get_plugin("terminalreporter"),
        )
        if lines and terminal:  # there is none with -p no:terminal
            if self.config.get_verbosity() < 0:
                terminal.line("")  # with -q ensure_newline does not see the dots
            terminal.ensure_newline()
            for line in lines:
                terminal.write_line(f"maskbench: {line}")
        lines.clear()
