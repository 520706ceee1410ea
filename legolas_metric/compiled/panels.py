"""How rows of int16 stand together for the processor; apart from `avx2`, which imports numba."""

PANELS = (6, 16)
"""Rows of an int16 table that stand together, as left and as right factors: those of a micro-tile."""
