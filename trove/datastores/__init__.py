"""Facts about the database engines: no I/O, importable by control plane and guest alike."""
