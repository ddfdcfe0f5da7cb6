"""The SQL backend: models, one repository module a resource, migrations.

A repository function takes a Session and joins the caller's transaction; it never commits.
"""
