"""Who gets a place, and whose is taken for it."""

import logging
import socket
from collections.abc import Iterator

import pytest

from server.web.connection_limits import LOG_INTERVAL_S, ConnectionLimits, Peer
from server.web.listener import places


class Sockets:
    """Makes connected sockets, and tells which of them the limits have ended."""

    def __init__(self) -> None:
        self._pairs: list[tuple[socket.socket, socket.socket]] = []

    def new(self) -> socket.socket:
        self._pairs.append(socket.socketpair())
        return self._pairs[-1][0]

    def ended(self) -> list[bool]:
        return [_is_ended(theirs) for _, theirs in self._pairs]

    def close(self) -> None:
        for pair in self._pairs:
            for each in pair:
                each.close()


def _is_ended(theirs: socket.socket) -> bool:
    theirs.setblocking(False)
    try:
        return theirs.recv(1) == b""
    except BlockingIOError:
        return False


@pytest.fixture
def sockets() -> Iterator[Sockets]:
    made = Sockets()
    yield made
    made.close()


def limits(
    total: int = 3, per_address: int = 2, now: list[float] | None = None
) -> ConnectionLimits:
    clock = now or [0.0]
    return ConnectionLimits(
        total,
        per_address,
        is_exempt=lambda address: address.is_loopback,
        clock=lambda: clock[0],
    )


def admit(found: ConnectionLimits, sockets: Sockets, *peers: Peer) -> list[bool]:
    return [found.admit(sockets.new(), peer) for peer in peers]


@pytest.mark.parametrize(
    ("addresses", "expected"),
    [
        (["203.0.113.1", "203.0.113.1", "203.0.113.1"], [True, True, False]),
        (["203.0.113.1", "203.0.113.1", "203.0.113.2"], [True, True, True]),
        # one customer has them all
        (["2001:db8::1", "2001:db8::2", "2001:db8::ffff:3"], [True, True, False]),
        (["2001:db8::1", "2001:db8::2", "2001:db8:0:1::1"], [True, True, True]),
        (["::ffff:203.0.113.1", "203.0.113.1", "::ffff:203.0.113.1"], [True, True, False]),
        (["127.0.0.1", "127.0.0.1", "127.0.0.1"], [True, True, True]),
        (["::1", "::1", "::1"], [True, True, True]),
    ],
)
def test_one_address_gets_its_places_and_no_more(
    sockets: Sockets, addresses: list[str], expected: list[bool]
) -> None:
    peers = [(address, port) for port, address in enumerate(addresses)]

    assert admit(limits(), sockets, *peers) == expected


def test_newcomer_gets_the_place_of_the_longest_silence(sockets: Sockets) -> None:
    found = limits()
    peers: list[Peer] = [("127.0.0.1", port) for port in range(4)]
    admit(found, sockets, *peers[:3])
    found.busy(peers[0])
    found.busy(peers[1])
    found.silent(peers[1])

    # 2 has been silent longer than 1, and 0 is in a request
    assert admit(found, sockets, peers[3]) == [True]

    assert sockets.ended() == [False, False, True, False]


def test_request_is_not_cut_off_for_a_newcomer(sockets: Sockets) -> None:
    found = limits()
    peers: list[Peer] = [("127.0.0.1", port) for port in range(3)]
    admit(found, sockets, *peers)
    for peer in peers:
        found.busy(peer)

    assert admit(found, sockets, ("127.0.0.1", 9)) == [False]
    assert sockets.ended() == [False] * 4


def test_closed_connection_frees_its_place_once(sockets: Sockets) -> None:
    found, connection, peer = limits(total=2, per_address=1), sockets.new(), ("203.0.113.1", 1)
    found.admit(connection, peer)
    for _ in range(2):
        found.release(peer, connection)

    assert admit(found, sockets, ("203.0.113.1", 2), ("203.0.113.1", 3)) == [True, False]
    # the port was reused, and the old connection closes late
    found.release(("203.0.113.1", 2), connection)
    assert admit(found, sockets, ("203.0.113.1", 4)) == [False]


def test_refusals_are_logged_once_a_minute(
    sockets: Sockets, caplog: pytest.LogCaptureFixture
) -> None:
    now = [0.0]
    found = limits(per_address=1, now=now)
    with caplog.at_level(logging.WARNING):
        admit(found, sockets, *(("203.0.113.1", port) for port in range(50)))
        now[0] = LOG_INTERVAL_S
        admit(found, sockets, ("203.0.113.1", 99))

    assert len(caplog.records) == 2


@pytest.mark.parametrize(
    ("max_connections", "file_limit", "expected"),
    [(1000, 65_536, 1000), (1000, 1024, 768), (1000, 256, 128), (16, 256, 16)],
)
def test_places_leave_files_for_the_rest_of_the_server(
    max_connections: int, file_limit: int, expected: int
) -> None:
    assert places(max_connections, file_limit) == expected
