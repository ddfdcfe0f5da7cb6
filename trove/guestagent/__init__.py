"""The guest agent: supervises one engine and executes jobs."""
