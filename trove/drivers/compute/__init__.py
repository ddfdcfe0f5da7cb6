"""The compute drivers."""
