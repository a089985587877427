"""What every response and the server's process must hold to."""

import json
import re
import urllib.parse
from dataclasses import dataclass
from pathlib import Path

import jsonschema_rs

from server.contracts import CONTRACTS
from server.web.contract import find_contract
from tests.fuzz.raw_http import RawRequest, RawResponse
from tests.live_server import ROOT, LiveServer

# uvicorn's own words for what is not HTTP: no contract sees such a request.
NOT_HTTP = b"Invalid HTTP request received."
SHOWN_BYTES = 800
_VALIDATORS = {
    contract.name: jsonschema_rs.validator_for(dict(contract.error_schema))
    for contract in CONTRACTS
}


def faults(server: LiveServer, request: RawRequest, response: RawResponse | None) -> list[str]:
    """Say what is wrong with a response; nothing if it is as it should be."""
    if response is None:
        return [] if request.may_be_cut_off else ["no response, and the connection was closed"]
    found = [f"shows {text!r}" for text in leaks(server, response.headers + response.body)]
    if response.status >= 500:
        found.append("is an error of the server")
    elif response.status >= 400 and request.method != b"HEAD":
        found += _shape_faults(request, response)
    return found


def leaks(server: LiveServer, data: bytes) -> list[str]:
    """The folders of this machine and the parts of tracebacks that a client could read."""
    secrets = (server.folder, ROOT, Path.home(), "Traceback (most recent", "site-packages", '.py"')
    return [str(secret) for secret in secrets if str(secret).encode() in data]


def _shape_faults(request: RawRequest, response: RawResponse) -> list[str]:
    if response.status == 400 and response.body == NOT_HTTP:
        return []
    path = urllib.parse.unquote(request.target.partition(b"?")[0].decode("latin-1"))
    contract = find_contract(CONTRACTS, path)
    try:
        body = json.loads(response.body)
    except ValueError:
        return [f"is no JSON: {response.body[:200]!r}"]
    is_valid = _VALIDATORS[contract.name].is_valid(body)
    return [] if is_valid else [f"has no error of {contract.name}'s shape"]


def tracebacks(log: str) -> list[str]:
    """The tracebacks in a server's log, without those of uvicorn about broken framing.

    uvicorn answers it before the route does, and then logs h11's objection to a second response.
    """
    records = re.split(r"\n(?=\d{4}-\d\d-\d\d )", log.strip())
    return [
        record
        for record in records
        if "Traceback" in record
        and not record.splitlines()[-1].strip().startswith("h11._util.LocalProtocolError")
    ]


@dataclass(frozen=True, slots=True)
class Usage:
    """What the server takes: memory of it and of its largest decoder in MiB, and open files."""

    server_mib: float
    decoder_mib: float
    files: int

    @classmethod
    def of(cls, server: LiveServer) -> "Usage":
        """Measure it now."""
        files = len(list(Path(f"/proc/{server.process.pid}/fd").iterdir()))
        decoders = [resident_mib(pid) for pid in server.decoder_pids()]
        return cls(resident_mib(server.process.pid), max(decoders, default=0.0), files)

    def __str__(self) -> str:
        return (
            f"server {self.server_mib:.0f} MiB, decoder {self.decoder_mib:.0f} MiB, "
            f"{self.files} open files"
        )


def resident_mib(pid: int) -> float:
    """The resident memory of a process."""
    match = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return int(match[1]) / 1024 if match else 0.0


def shown(request: RawRequest) -> str:
    """The request as bytes, its start where it is long."""
    data = request.encode()
    return repr(data if len(data) <= SHOWN_BYTES else data[:SHOWN_BYTES] + b"...")
