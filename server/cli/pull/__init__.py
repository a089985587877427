"""`qwen-edit pull`."""

from server.cli.pull.command import pull as pull
