"""pytest reads this file first; everything is in the plugin."""

pytest_plugins = ["maskbench.plugin"]
