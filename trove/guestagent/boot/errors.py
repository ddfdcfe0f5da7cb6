"""What can go wrong at boot."""

from __future__ import annotations


class BootError(Exception):
    """The guest cannot be set up; the text says why and what helps, for the console's log."""
