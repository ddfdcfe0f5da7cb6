"""JSON Schemas (2020-12) of requests and responses, as data, one module a resource."""
