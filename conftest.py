"""Loads the maskbench plugin, which has all of the suite's options, fixtures and hooks."""

pytest_plugins = ["maskbench.plugin"]
