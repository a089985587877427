"""One package per wire contract; each only translates between HTTP and `EditService`."""

from server.contracts import native, openai, provider_queue, wavespeed
from server.web.contract import Contract

CONTRACTS: tuple[Contract, ...] = (
    wavespeed.CONTRACT,
    provider_queue.CONTRACT,
    openai.CONTRACT,
    native.CONTRACT,
)
