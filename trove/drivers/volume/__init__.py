"""The volume drivers."""
