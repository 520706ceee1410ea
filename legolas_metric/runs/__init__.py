"""Whole runs from one record of settings: train, cross-validate, embed, join, search."""

from legolas_metric.runs.run_settings import RunSettings as RunSettings
