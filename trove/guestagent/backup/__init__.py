"""Backups: from an engine's stream to objects and back, compressed, sealed and checked."""
