"""Use cases without HTTP: a function is one transaction, then at most one cast."""
