"""Where backups are stored."""
