"""WaveSpeed's v3 contract.

Source: the provider's public documentation and published clients; each rule that a client relies
on has a test in `tests/server/contracts/test_wavespeed.py`.
"""

from server.contracts.wavespeed.routes import render, router

__all__ = ["render", "router"]
