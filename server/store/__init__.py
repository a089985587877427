"""The SQLite database, one file per table."""
