"""The REST API: a pecan application."""
