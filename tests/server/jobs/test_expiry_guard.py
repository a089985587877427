"""A jump of the clock, or a long gap, expires nothing at once."""

import pytest

from server.jobs.expiry_guard import GRACE_S, ExpiryGuard
from tests.fake_time import FakeTime

HOUR_S = 3600.0
WEEK_S = 7 * 24 * HOUR_S


@pytest.fixture
def wall() -> FakeTime:
    return FakeTime(2 * WEEK_S)


@pytest.fixture
def steady() -> FakeTime:
    return FakeTime(0.0)


def test_ages_are_trusted_while_both_clocks_agree(wall: FakeTime, steady: FakeTime) -> None:
    guard = ExpiryGuard(wall, steady, wall.now)
    for _ in range(3):
        wall.now += HOUR_S
        steady.now += HOUR_S
        assert guard.may_expire()


def test_jump_ahead_defers_expiry_for_a_day(wall: FakeTime, steady: FakeTime) -> None:
    guard = ExpiryGuard(wall, steady, None)
    wall.now += WEEK_S
    assert not guard.may_expire()
    steady.now += GRACE_S
    wall.now += GRACE_S
    assert guard.may_expire()


def test_start_after_a_long_gap_defers_expiry(wall: FakeTime, steady: FakeTime) -> None:
    guard = ExpiryGuard(wall, steady, wall.now - WEEK_S)
    assert not guard.may_expire()
    steady.now += GRACE_S
    wall.now += GRACE_S
    assert guard.may_expire()


def test_clock_that_is_set_back_defers_nothing(wall: FakeTime, steady: FakeTime) -> None:
    guard = ExpiryGuard(wall, steady, None)
    wall.now -= WEEK_S
    assert guard.may_expire()
