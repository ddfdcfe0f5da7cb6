"""Drivers for what lies outside: servers, volumes, networks, images, secrets."""
