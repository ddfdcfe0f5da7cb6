"""The first thing a guest does: config drive, host firewall, network. Before any of the agent.

Runs as root, once at each boot, before the network comes up; a boot waits for it, so nothing but
the standard library and :mod:`trove.guestagent.system` is imported here.
"""
