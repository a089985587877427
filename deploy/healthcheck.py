"""Exit with 0 while the server on this machine answers and its model has not failed.

Speaks http, then https: with QWEN_EDIT_TLS_CERT set, the certificate names the public host and not
the loopback address, so it is not verified. A server that still loads its model is healthy.
"""

import json
import os
import ssl
import sys
import urllib.request

TIMEOUT_S = 4


def status(scheme: str, port: str) -> str:
    """Return `status` of `/health`. Raises OSError or ValueError when there is no such answer."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    handlers = urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
    opener = urllib.request.build_opener(*handlers)
    with opener.open(f"{scheme}://127.0.0.1:{port}/health", timeout=TIMEOUT_S) as answer:
        return str(json.load(answer)["status"])


def main() -> int:
    """Return the exit code."""
    problems = []
    for scheme in ("http", "https"):
        try:
            return int(status(scheme, os.environ["QWEN_EDIT_PORT"]) == "failed")
        except (OSError, ValueError) as exc:
            problems.append(f"{scheme}: {exc}")
    print(*problems, sep="\n", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
