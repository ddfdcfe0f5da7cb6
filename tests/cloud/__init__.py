"""Scenarios on a real OpenStack."""
