"""Trove: the Database service of OpenStack."""
