"""Helpers that several test files import."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
"""The root of the checkout."""
