"""The network drivers."""
