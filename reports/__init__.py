"""Saved runs in, pictures out. `python -m reports --help` lists the commands."""
