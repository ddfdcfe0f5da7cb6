"""Messages between the processes: transports, sealed envelopes, payloads, clients.

Two buses. The control bus (``[DEFAULT] transport_url``) carries hints between API, conductor and
taskmanager. The guest bus (``[guest] transport_url``, own virtual host) carries sealed envelopes
between agents and the control plane.
"""
