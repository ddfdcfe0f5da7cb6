"""The image drivers."""
