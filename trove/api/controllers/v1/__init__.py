"""The handlers of version 1.0, one module a resource."""
