"""Submits of an owner in a minute."""

import pytest

from server.errors import TooManySubmits
from server.jobs.submit_rate import SubmitRate


class FakeClock:
    """A clock that the test sets."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_submits_beyond_the_rate_are_refused_until_the_first_is_a_minute_old() -> None:
    clock = FakeClock()
    rate = SubmitRate(2, clock)
    rate.count("alice")
    clock.now += 20
    rate.count("alice")

    with pytest.raises(TooManySubmits, match="2 jobs in the last minute") as refused:
        rate.count("alice")
    assert refused.value.retry_after_s == 40

    # a refusal counts nothing
    clock.now += 40
    rate.count("alice")
    with pytest.raises(TooManySubmits):
        rate.count("alice")


def test_each_owner_has_a_rate_of_its_own() -> None:
    rate = SubmitRate(1, FakeClock())

    rate.count("alice")
    rate.count("bob")

    with pytest.raises(TooManySubmits):
        rate.count("bob")


def test_zero_allows_any_number() -> None:
    rate = SubmitRate(0, FakeClock())

    for _ in range(1000):
        rate.count("alice")
