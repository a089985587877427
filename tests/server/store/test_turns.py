"""Fair share: the order of claims, and positions that follow it."""

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.job import Job, JobStatus, Outcome
from server.store import endings, jobs, turns, webhooks
from server.store.database import connect
from tests.make_job import make_job


def new_table(path: str | Path) -> sqlite3.Connection:
    connection = connect(Path(path))
    jobs.create_table(connection)
    webhooks.create_table(connection)
    return connection


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    connection = new_table(tmp_path / "jobs.sqlite3")
    yield connection
    connection.close()


def submit(connection: sqlite3.Connection, owner: str | None) -> Job:
    job = make_job(owner=owner)
    jobs.insert(connection, job)
    return job


def owners_of_claims(connection: sqlite3.Connection) -> str:
    """Claim everything; return the owners in order."""
    owners = ""
    while job := jobs.claim(connection, 1.0):
        owners += str(job.request.owner)
    return owners


def cancel(connection: sqlite3.Connection, job_id: str) -> None:
    job = jobs.get(connection, job_id)
    assert job is not None
    canceled = job.ended(Outcome(JobStatus.CANCELED), 2.0)
    assert endings.update(connection, canceled, [job.status])


def test_claims_alternate_between_owners(connection: sqlite3.Connection) -> None:
    for owner in "aaaabbc":
        submit(connection, owner)

    assert owners_of_claims(connection) == "abcabaa"


def test_newcomer_is_next_whatever_the_backlog_of_others(connection: sqlite3.Connection) -> None:
    for _ in range(5):
        submit(connection, "a")
    jobs.claim(connection, 1.0)
    newcomer = submit(connection, "b")

    assert turns.position(connection, newcomer.id) == 0
    assert owners_of_claims(connection) == "baaaa"


def test_owner_that_was_just_served_does_not_overtake(connection: sqlite3.Connection) -> None:
    submit(connection, "a")
    waiting = submit(connection, "b")
    first = jobs.claim(connection, 1.0)
    again = submit(connection, "a")

    assert first is not None
    assert first.request.owner == "a"
    assert [turns.position(connection, job.id) for job in (waiting, again)] == [0, 1]


def test_deleted_history_gives_nobody_an_advantage(connection: sqlite3.Connection) -> None:
    for _ in range(6):
        submit(connection, "a")
    for _ in range(3):
        job = jobs.claim(connection, 1.0)
        assert job is not None
        endings.update(connection, job.ended(Outcome(JobStatus.SUCCEEDED), 2.0), [job.status])
        endings.delete(connection, job.id)
    for _ in range(3):
        submit(connection, "b")

    assert owners_of_claims(connection) == "bababa"


def test_canceled_jobs_cost_their_owner_no_turn(connection: sqlite3.Connection) -> None:
    mine = [submit(connection, "a") for _ in range(4)]
    for _ in range(2):
        submit(connection, "b")
    for job in mine[:3]:
        cancel(connection, job.id)

    assert turns.position(connection, mine[3].id) == 0
    assert owners_of_claims(connection) == "abb"


ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("submit"), st.sampled_from("abc")),
        st.just(("claim", "")),
        st.tuples(st.just("cancel"), st.integers(0, 30)),
    ),
    max_size=40,
)


@given(actions=ACTIONS)
@settings(max_examples=200, deadline=None)
def test_positions_are_the_order_of_claims_which_is_fair(actions: list[tuple[str, object]]) -> None:
    connection = new_table(":memory:")
    waiting: list[Job] = []  # in the order of submission
    served: list[str] = []
    # how many claims others had since each owner's first waiting job could have run
    passed_over: dict[str, dict[str, int]] = {}

    def claim() -> None:
        job = jobs.claim(connection, 1.0)
        assert (job is None) == (not waiting)
        if job is None:
            return
        owner = str(job.request.owner)
        oldest = next(each for each in waiting if each.request.owner == owner)
        assert job.id == oldest.id, "not first in, first out within an owner"
        waiting.remove(oldest)
        served.append(owner)
        passed_over.pop(owner, None)
        for other in {str(each.request.owner) for each in waiting} - {owner}:
            counts = passed_over.setdefault(other, {})
            counts[owner] = counts.get(owner, 0) + 1
            # 2 where `other` was served in this turn and submitted its next job after `owner`'s
            assert counts[owner] <= 2, f"{owner} overtook {other}: {served}"

    for action, argument in actions:
        match action:
            case "submit":
                waiting.append(submit(connection, str(argument)))
            case "claim":
                claim()
            case "cancel" if waiting:
                assert isinstance(argument, int)
                cancel(connection, waiting.pop(argument % len(waiting)).id)
    order = {job.id: turns.position(connection, job.id) for job in waiting}
    assert sorted(order.values()) == list(range(len(waiting)))
    claimed = []
    while waiting:
        before = {job.id for job in waiting}
        claim()
        (gone,) = before - {job.id for job in waiting}
        claimed.append(gone)
    assert sorted(order, key=lambda job_id: order[job_id]) == claimed
    connection.close()
