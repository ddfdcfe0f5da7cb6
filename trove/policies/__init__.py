"""The rules of oslo.policy, one module a resource."""
