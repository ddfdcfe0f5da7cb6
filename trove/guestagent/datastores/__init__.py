"""The engines: one family a package, composed of the parts in :mod:`.base`."""
