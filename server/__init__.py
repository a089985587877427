"""Turns HTTP into jobs and jobs into answers. Never imports torch."""
