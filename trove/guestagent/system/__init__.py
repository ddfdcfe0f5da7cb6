"""The operating system as the agent uses it: users, files, processes. Nothing about engines."""
