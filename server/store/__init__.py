"""What is on disk, in SQLite: one file per table."""
