"""What alembic runs; the connection is handed in by :mod:`trove.db.migrations`."""

from alembic import context

from trove.db import models

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=models.Base.metadata,
    compare_type=True,
    render_as_batch=True,
)
with context.begin_transaction():
    context.run_migrations()
