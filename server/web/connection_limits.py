"""How many connections clients may hold, in all and from one address."""

import ipaddress
import logging
import socket
from collections import Counter
from collections.abc import Callable

logger = logging.getLogger(__name__)

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
# Address and port of a client.
Peer = tuple[str, int]

LOG_INTERVAL_S = 60.0
# Providers give a whole network of this size to one customer.
IPV6_PREFIX = 64


class ConnectionLimits:
    """Knows every open connection, and which of them wait for a request.

    When all places are taken, a newcomer gets that of the connection that has been silent longest.
    A request is never cut off for one.
    """

    def __init__(
        self,
        total: int,
        per_address: int,
        *,
        is_exempt: Callable[[Address], bool],
        clock: Callable[[], float],
    ) -> None:
        """`is_exempt` addresses may take all places; `clock` is a monotonic one, in seconds."""
        self._total = total
        self._per_address = per_address
        self._is_exempt = is_exempt
        self._clock = clock
        self._open: dict[Peer, socket.socket] = {}
        # in the order in which they fell silent
        self._silent: dict[Peer, None] = {}
        self._by_network: Counter[str] = Counter()
        self._logged_at: float | None = None

    def admit(self, connection: socket.socket, peer: Peer) -> bool:
        """Count a new connection; return False if there is no place for it."""
        network, is_exempt = client_network(peer[0]), self._is_exempt(client_address(peer[0]))
        if not is_exempt and self._by_network[network] >= self._per_address:
            self.note(f"{network} has {self._per_address} connections; it gets no more")
            return False
        if self.is_full and not self._end_silent():
            self.note(f"all {self._total} connections are in use; new ones are closed")
            return False
        self._open[peer] = connection
        self._silent[peer] = None
        self._by_network[network] += 1
        return True

    @property
    def is_full(self) -> bool:
        """True while a newcomer gets the place of another connection."""
        return len(self._open) >= self._total

    def release(self, peer: Peer, connection: socket.socket) -> None:
        """Forget a connection that is closed, unless it has been forgotten already."""
        if self._open.get(peer) is connection:
            self._forget(peer)

    def busy(self, peer: Peer) -> None:
        """A request of this connection has begun."""
        self._silent.pop(peer, None)

    def silent(self, peer: Peer) -> None:
        """This connection waits for a request."""
        if peer in self._open:
            self._silent[peer] = None

    def note(self, message: str) -> None:
        """Log a refusal, at most once a minute: strangers decide how many there are."""
        now = self._clock()
        if self._logged_at is None or now - self._logged_at >= LOG_INTERVAL_S:
            self._logged_at = now
            logger.warning("connections: %s (logged once a minute)", message)

    def _end_silent(self) -> bool:
        peer = next(iter(self._silent), None)
        if peer is None:
            return False
        connection = self._open[peer]
        self._forget(peer)
        # the transport reads the end of the connection and closes it
        connection.shutdown(socket.SHUT_RDWR)
        return True

    def _forget(self, peer: Peer) -> None:
        del self._open[peer]
        self._silent.pop(peer, None)
        network = client_network(peer[0])
        self._by_network[network] -= 1
        if not self._by_network[network]:
            del self._by_network[network]


def client_address(text: str) -> Address:
    """Parse the address of a connection; an IPv4 address in IPv6 form is one of IPv4."""
    address = ipaddress.ip_address(text.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def client_network(text: str) -> str:
    """Return the IPv4 address, or the network that an IPv6 address's owner has.

    What is no address, such as the name of a client without a socket, is returned as it is.
    """
    try:
        address = client_address(text)
    except ValueError:
        return text
    if isinstance(address, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((address, IPV6_PREFIX), strict=False))
    return str(address)
