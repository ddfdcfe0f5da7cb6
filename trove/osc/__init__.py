"""Commands of the openstack client that python-troveclient lacks."""
