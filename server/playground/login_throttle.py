"""How often one address may try a wrong key on the login form."""

import math
from collections import OrderedDict
from collections.abc import Callable

from server.errors import TooManyLogins
from server.web.connection_limits import client_network

ATTEMPTS = 5
WINDOW_S = 60.0
# The memory is bounded: beyond this number, the address that was silent longest is forgotten.
MAX_ADDRESSES = 1000


class LoginThrottle:
    """Allows ATTEMPTS wrong keys a minute to each address, or network of IPv6 addresses."""

    def __init__(self, clock: Callable[[], float]) -> None:
        """`clock` is a monotonic one, in seconds."""
        self._clock = clock
        # when the window of an address began, and its wrong keys in it
        self._wrong: OrderedDict[str, tuple[float, int]] = OrderedDict()

    def check(self, address: str) -> None:
        """Raise TooManyLogins while this address may not try another key."""
        began, wrong = self._wrong.get(client_network(address), (0.0, 0))
        left_s = began + WINDOW_S - self._clock()
        if wrong >= ATTEMPTS and left_s > 0:
            retry_after_s = math.ceil(left_s)
            raise TooManyLogins(
                f"{wrong} keys were wrong. Try again in {retry_after_s} seconds.",
                retry_after_s=retry_after_s,
            )

    def count_wrong(self, address: str) -> None:
        """Count a wrong key."""
        network, now = client_network(address), self._clock()
        began, wrong = self._wrong.pop(network, (now, 0))
        if now - began >= WINDOW_S:
            began, wrong = now, 0
        self._wrong[network] = began, wrong + 1
        if len(self._wrong) > MAX_ADDRESSES:
            self._wrong.popitem(last=False)
