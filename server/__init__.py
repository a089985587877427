"""HTTP to jobs, and jobs to responses. Never imports torch."""
