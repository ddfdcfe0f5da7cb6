"""The taskmanager: runs operations and reconciles."""
