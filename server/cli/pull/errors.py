"""Why `qwen-edit pull` fetches nothing."""


class PullError(Exception):
    """Nothing was fetched; the message says why and what to do."""
