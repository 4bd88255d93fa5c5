"""Masks as calls of the FlashAttention family: windows, packed sequences and merged calls."""
