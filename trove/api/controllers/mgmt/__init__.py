"""Handlers of operators."""
