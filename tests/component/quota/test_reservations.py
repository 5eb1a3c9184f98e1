"""Charging a tenant's storage, the API server in memory: what is written when, and what is given back."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from manifestry.adapters.kube import apierrors
from manifestry.adapters.quota import reservations
from manifestry.adapters.quota.reservations import Reservations, Upload
from manifestry.adapters.store.contract import ports
from manifestry.core import errors
from manifestry.core.quota.storage.charges import landed, provisional
from manifestry.core.quota.storage.charges import upload as upload_key
from manifestry.core.quota.storage.grants import STEP_BYTES
from manifestry.core.quota.storage.limits import Limits
from tests.component.quota.ledgerworld import ACME, BrokeError, World, begin, break_off, opened


@pytest.fixture
async def world(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    async with opened(monkeypatch) as found:
        yield found


ANY = "sha256:" + "0" * 64


async def test_without_a_limit_the_api_is_left_alone(world: World) -> None:
    for held in (world.held, Reservations()):
        async with held.hold(ACME, "u", "a", None) as hold:
            await hold.grow(10**12)
            hold.keep()
            await hold.give_back()
            await hold.land(ports.Blob(ANY, 10**12))
            await hold.withdraw()
        await held.release(ACME, "u", "t")
    assert (world.api.reads, world.api.writes, world.api.body) == (0, 0, None)
    with pytest.raises(RuntimeError):
        _ = Reservations().books


async def test_a_known_size_is_one_write_and_stays_when_all_went_well(world: World) -> None:
    await world.limit(Limits(100))
    async with world.held.hold(ACME, "u", "a", 60) as hold:
        for total in (1, 30, 60):
            await hold.grow(total)
        hold.keep()
    assert (world.api.held, world.api.writes, world.api.reads) == ({"u": 60}, 1, 1)


async def test_what_went_wrong_is_given_back(world: World) -> None:
    await world.limit(Limits(100))
    with pytest.raises(BrokeError):
        await break_off(world, 60)
    assert world.api.held == {}
    async with world.held.hold(ACME, "", "a", 0) as hold:
        hold.keep()
    assert world.api.held == {provisional("a"): 0}
    with pytest.raises(BrokeError):
        await break_off(world, 60)
    assert world.api.held == {"u": 0}, "it still counts"


async def test_what_is_kept_stays_whatever_happens(world: World) -> None:
    await world.limit(Limits(100))

    async def keep(hold: reservations.Hold) -> None:
        hold.keep()
        raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        await break_off(world, 60, keep)
    assert world.api.held == {"u": 60}


async def hold_upload(world: World, upload: Upload, size_bytes: int | None, uid: str = "u") -> None:
    """Begin an upload and leave its charge."""
    async with world.held.hold(ACME, uid, "a", size_bytes, upload=upload) as hold:
        hold.keep()


async def test_uploads_of_one_artifact_at_once_are_charged_each(world: World) -> None:
    await world.limit(Limits(100, 1))
    uploads = [Upload("one"), Upload("two"), Upload("two")]
    assert len({each.token for each in uploads}) == 3
    tasks = [hold_upload(world, each, 40) for each in uploads]
    results = await asyncio.gather(*tasks, return_exceptions=True)
    refused = [each for each in results if isinstance(each, errors.Problem)]
    assert [each.kind for each in refused] == [errors.QUOTA_EXCEEDED]
    assert sorted(world.api.held.values()) == [0, 40, 40], "the artifact counts once, its uploads each"


async def test_an_upload_that_broke_off_leaves_the_others_alone(world: World) -> None:
    await world.limit(Limits(100))
    await hold_upload(world, Upload("one", "t"), 40)
    with pytest.raises(BrokeError):
        async with world.held.hold(ACME, "u", "a", 60, upload=Upload("two")):
            raise BrokeError
    assert world.api.held == {"u": 0, upload_key("u", "t"): 40}
    await world.held.release(ACME, "u", "t")
    assert world.api.held == {"u": 0}
    await world.held.release(ACME, "u", "t")
    world.api.failure = apierrors.UnavailableError(503, "down", "down")
    await world.held.release(ACME, "u", "t")


async def test_what_has_landed_is_the_files_and_trying_again_costs_nothing(world: World) -> None:
    await world.limit(Limits(100))

    async def put() -> None:
        async with world.held.hold(ACME, "u", "a", None, upload=Upload("one")) as hold:
            await hold.grow(50)
            await hold.land(ports.Blob(ANY, 50))
            raise BrokeError

    for _ in range(2):  # the record did not arrive, or its answer
        with pytest.raises(BrokeError):
            await put()
        assert world.api.held == {"u": 0, landed("u", "one", ANY): 50}


async def test_what_will_never_be_the_artifacts_is_withdrawn(world: World) -> None:
    await world.limit(Limits(100))
    async with world.held.hold(ACME, "u", "a", 60, upload=Upload()) as hold:
        await hold.withdraw()
        await hold.land(ports.Blob(ANY, 60))
        await hold.withdraw()
    assert world.api.held == {"u": 0}


async def test_a_session_holds_one_charge_over_all_its_requests(world: World) -> None:
    await world.limit(Limits(100))
    session = Upload("", "session")
    await hold_upload(world, session, 60)
    await hold_upload(world, session, 60)
    async with world.held.hold(ACME, "u", "a", 60, upload=session) as hold:
        hold.keep()
        await hold.grow(60)
        await hold.land(ports.Blob(ANY, 60))
    assert world.api.held == {"u": 0, landed("u", "", ANY): 60}


async def test_a_charge_that_another_has_changed_is_not_taken_from_it(world: World) -> None:
    await world.limit(Limits(100))

    async def another(_: reservations.Hold) -> None:
        await begin(world, "u", 40)

    with pytest.raises(BrokeError):
        await break_off(world, 60, another)
    assert world.api.held == {"u": 60}


async def test_a_renewal_over_anothers_charge_gives_back_no_more_than_its_own(world: World) -> None:
    await world.limit(Limits(100))

    async def another(mine: reservations.Hold) -> None:
        await begin(world, "u", 60)
        world.seconds += 61
        await mine.grow(40)

    with pytest.raises(BrokeError):
        await break_off(world, 40, another)
    assert world.api.held == {"u": 60}


async def test_a_stream_of_unknown_length_grows_in_steps(world: World) -> None:
    await world.limit(Limits(10 * STEP_BYTES))
    async with world.held.hold(ACME, "u", "a", None) as hold:
        for total in range(0, 3 * STEP_BYTES, STEP_BYTES // 8):
            await hold.grow(total)
    assert world.api.writes == 3
    assert world.api.held["u"] < 4 * STEP_BYTES


async def test_a_lease_is_renewed_at_half_its_time(world: World) -> None:
    await world.limit(Limits(100))
    async with world.held.hold(ACME, "u", "a", 60) as hold:
        world.seconds += 59
        await hold.grow(10)
        assert world.api.writes == 1
        world.seconds += 2
        await hold.grow(10)
        await hold.grow(10)
        assert world.api.writes == 2
    async with world.held.hold(ACME, "u", "a", 60, lease_seconds=7200) as hold:
        world.seconds += 3599
        await hold.grow(60)
    assert world.api.writes == 3
    assert world.api.body is not None
    assert world.api.body["status"]["holders"]["u"]["expirationTime"] == "2026-01-01T14:00:00.000000Z"


async def test_over_the_limit_the_caller_gets_the_numbers(world: World) -> None:
    await world.limit(Limits(100, 5))
    async with world.held.hold(ACME, "u", "a", 60):
        pass
    with pytest.raises(errors.Problem) as caught:
        await begin(world, "v", 41)
    problem = caught.value
    assert problem.kind is errors.QUOTA_EXCEEDED
    assert problem.usage == {
        "usedBytes": 0, "reservedBytes": 60, "maxBytes": 100, "artifacts": 1, "maxArtifacts": 5,
    }  # fmt: skip
    assert problem.headers == {"Retry-After": "5"}
    with pytest.raises(errors.Problem):
        await begin(world, "v", 40, 41)
    assert world.api.held == {"u": 60}


async def test_contention_is_busy_and_never_over_the_quota(world: World) -> None:
    await world.limit(Limits(100))
    world.api.conflicts = 10_000
    with pytest.raises(errors.Problem) as caught:
        await begin(world, "u", 60)
    assert caught.value.kind is errors.BUSY


async def test_a_charge_that_cannot_be_given_back_is_left_to_its_lease(world: World) -> None:
    await world.limit(Limits(100))

    async def lose(_: reservations.Hold) -> None:
        world.api.failure = apierrors.UnavailableError(503, "down", "down")

    with pytest.raises(BrokeError):
        await break_off(world, 60, lose)
    assert world.api.held == {"u": 60}
