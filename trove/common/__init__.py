"""The five small modules that everything may import."""
