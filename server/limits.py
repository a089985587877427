"""Limits that error messages and several folders share."""

# An input image as a file; each contract may allow less.
MAX_IMAGE_BYTES = 20 * 1024 * 1024
# Workers that may die while they run a job; the last one fails it.
MAX_ATTEMPTS = 2
# Times that a job may be handed to a worker; the server was stopped during each of them.
MAX_STARTS = 10
