"""The dns drivers."""
