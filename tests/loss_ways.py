"""The ways in which a loss is computed: by the formula, in blocks, row by row."""

WAYS = {"formula": None, "blocks": 64, "row by row": 0}
"""Workspace in MB."""
