"""The libraries that compute attention, one module each. `registry.py` lists them.

A module defines `BACKENDS`, a dict of name to `bind(mask, q, k, v) -> BoundAttention`.
"""
