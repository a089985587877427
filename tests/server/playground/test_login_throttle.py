"""How often a wrong key may be tried."""

import pytest

from server.errors import TooManyLogins
from server.playground.login_throttle import ATTEMPTS, MAX_ADDRESSES, WINDOW_S, LoginThrottle


@pytest.fixture
def now() -> list[float]:
    return [1000.0]


@pytest.fixture
def throttle(now: list[float]) -> LoginThrottle:
    return LoginThrottle(lambda: now[0])


def try_wrong(throttle: LoginThrottle, address: str, times: int = ATTEMPTS) -> None:
    for _ in range(times):
        throttle.check(address)
        throttle.count_wrong(address)


def test_address_with_too_many_wrong_keys_waits_for_its_window(
    throttle: LoginThrottle, now: list[float]
) -> None:
    try_wrong(throttle, "203.0.113.1")
    now[0] += 20

    with pytest.raises(TooManyLogins) as caught:
        throttle.check("203.0.113.1")
    assert caught.value.retry_after_s == WINDOW_S - 20
    throttle.check("203.0.113.2")

    now[0] += WINDOW_S - 20
    try_wrong(throttle, "203.0.113.1")


def test_network_of_one_customer_counts_as_one_address(throttle: LoginThrottle) -> None:
    try_wrong(throttle, "2001:db8::1")

    with pytest.raises(TooManyLogins):
        throttle.check("2001:db8::2")
    throttle.check("2001:db8:0:1::1")


def test_few_wrong_keys_are_forgotten_with_their_window(
    throttle: LoginThrottle, now: list[float]
) -> None:
    try_wrong(throttle, "203.0.113.1", ATTEMPTS - 1)
    now[0] += WINDOW_S

    try_wrong(throttle, "203.0.113.1", ATTEMPTS)

    with pytest.raises(TooManyLogins):
        throttle.check("203.0.113.1")


def test_memory_is_bounded(throttle: LoginThrottle) -> None:
    for number in range(3 * MAX_ADDRESSES):
        throttle.count_wrong(f"10.0.{number // 256}.{number % 256}")

    assert len(throttle._wrong) == MAX_ADDRESSES
