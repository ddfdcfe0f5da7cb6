"""What clients see of rows: pure functions, one module a resource."""
