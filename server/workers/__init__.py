"""Who runs a job: executors and worker processes."""
