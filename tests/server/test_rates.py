"""Token buckets: what they allow, when they fill up again, and how few of them there can be."""

from dataclasses import dataclass

from tintype.server.rates import Buckets, Rates
from tintype.settings import LimitsSettings


@dataclass
class Clock:
    now: float = 100.0

    def __call__(self) -> float:
        return self.now


def buckets(clock: Clock, quota: float = 10, window: float = 10, most: int = 100) -> Buckets:
    return Buckets(quota, window, most, clock)


def drained(bucket: Buckets, name: str) -> int:
    """Take until there is no more, and return how often that went."""
    taken = 0
    while not bucket.wait(name):
        bucket.take(name, 1)
        taken += 1
    return taken


def test_a_bucket_gives_its_quota_at_once_and_then_its_rate() -> None:
    clock = Clock()
    bucket = buckets(clock)

    assert drained(bucket, "a") == 10
    assert bucket.wait("a") == 1
    clock.now += 3
    assert drained(bucket, "a") == 3
    clock.now += 1000
    assert drained(bucket, "a") == 10


def test_whoever_keeps_the_rate_never_waits() -> None:
    clock = Clock()
    bucket = buckets(clock)

    for _ in range(1000):
        assert not bucket.wait("a")
        bucket.take("a", 1)
        clock.now += 1


def test_what_was_moved_is_owed_when_it_was_more_than_announced() -> None:
    clock = Clock()
    bucket = buckets(clock, quota=1000, window=10)

    bucket.take("a", 3000)

    assert bucket.left("a") == -2000
    assert bucket.wait("a") == 21
    clock.now += 21
    assert not bucket.wait("a")


def test_one_name_takes_nothing_from_another() -> None:
    bucket = buckets(Clock())
    drained(bucket, "a")

    assert drained(bucket, "b") == 10


def test_names_without_number_share_one_bucket_and_free_nobody_of_a_debt() -> None:
    clock = Clock()
    bucket = buckets(clock, most=3)
    for name in ("a", "b", "c"):
        drained(bucket, name)

    for stranger in range(50):
        bucket.take(f"stranger {stranger}", 1)

    assert bucket.wait("a")
    assert bucket.wait("another stranger")
    clock.now += 100
    assert drained(bucket, "another stranger") == 10


def test_a_limit_that_is_off_has_no_bucket() -> None:
    off = Rates.of(
        LimitsSettings(requests_per_second=0, bytes_per_second=0, open_requests=0, failed_logins_per_minute=0)
    )

    assert (off.requests, off.volume, off.failures, off.open_requests) == (None, None, None, 0)


def test_by_default_no_program_that_works_properly_meets_a_rate() -> None:
    default = Rates.of(LimitsSettings())

    assert default.requests is not None
    assert default.requests.quota == 10_000
    assert default.volume is None
