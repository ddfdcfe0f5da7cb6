"""Commands of the openstack client that python-troveclient lacks.

They are found by their entry points in ``openstack.database.v1``, beside python-troveclient's own,
whose session they use; nothing of the service itself is imported here.
"""
