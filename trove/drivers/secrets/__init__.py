"""The secrets drivers."""
