"""Sessions of resumable uploads: records, keys, who may append what, what is collected."""

import dataclasses
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manifestry.core import errors
from manifestry.core.artifacts import uploads
from manifestry.core.artifacts.uploads import Append, Leftover, Seal, Session, State
from manifestry.core.blobs import digests, keys

NOW = datetime(2026, 5, 4, 3, 2, 1, tzinfo=UTC)
ID, TENANT = "0a1b2c3d-0000-4000-8000-000000000001", "0a1b2c3d-0000-4000-8000-000000000002"
DIGEST = digests.of(b"x")
SEAL = Seal(ID, DIGEST, 7)
LIMIT = 1000


def session(**changes: Any) -> Session:
    return Session(
        **{
            "session_id": ID, "tenant_uid": TENANT, "namespace": "team", "artifact_name": "a",
            "artifact_uid": "u", **changes,
        }
    )  # fmt: skip


def state(offset: int = 0, seal: Seal | None = None, pieces: int = 0, **changes: Any) -> State:
    return State(session(**changes), offset, NOW, seal, pieces)


@pytest.mark.parametrize("made", [session(), session(length_bytes=0, digest=DIGEST, slot=63)])
def test_a_session_is_read_back_as_it_was_written(made: Session) -> None:
    assert uploads.session_from(uploads.to_bytes(made)) == made


def test_a_seal_is_read_back_as_it_was_written() -> None:
    assert uploads.seal_from(uploads.to_bytes(SEAL)) == SEAL


@pytest.mark.parametrize("size", range(0, 100, 7))
def test_a_record_that_was_cut_off_is_none(size: int) -> None:
    assert uploads.session_from(uploads.to_bytes(session())[:size]) is None
    assert uploads.seal_from(uploads.to_bytes(SEAL)[:size]) is None


@pytest.mark.parametrize(
    "data",
    [b"[]", b"null", b"\xff", b"{}", b"x" * 20_000, b'{"session_id": "../x", "tenant_uid": "y"}',
     uploads.to_bytes(session())[:-1] + b', "more": 1}'],
)  # fmt: skip
def test_what_is_no_record_is_none(data: bytes) -> None:
    assert uploads.session_from(data) is None
    assert uploads.seal_from(data) is None


def test_a_seal_names_a_digest_and_a_size() -> None:
    assert uploads.seal_from(uploads.to_bytes(Seal(ID, "sha256:x", 7))) is None
    assert uploads.seal_from(uploads.to_bytes(Seal("..", DIGEST, 7))) is None
    assert uploads.seal_from(b'{"staged_id": "%s", "digest": "%s"}' % (ID.encode(), DIGEST.encode())) is None


def test_keys_are_read_back() -> None:
    assert uploads.parse_slot(uploads.slot(TENANT, 7)) == (TENANT, 7)
    assert uploads.slot(TENANT, 7).startswith(uploads.slots(TENANT))
    assert uploads.parse_slot("sessions/x/00001") is None
    assert uploads.parse_piece(uploads.piece(ID, 5 << 30).rpartition("/")[2]) == 5 << 30
    assert uploads.parse_piece("session.json") is None
    assert uploads.parse_piece("\u0661" * 20) is None


@pytest.mark.parametrize("part", ["", "..", "A" * 36, "../" + ID])
def test_a_key_is_never_built_from_anything_else(part: str) -> None:
    with pytest.raises(keys.KeyPartError):
        uploads.piece(part, 0)
    with pytest.raises(keys.KeyPartError):
        uploads.slot(part, 0)


@pytest.mark.parametrize(
    ("taken", "limit", "free"),
    [([], 2, [0, 1]), ([0], 2, [1]), ([1], 3, [0, 2]), ([0, 1], 2, []), ([7, 8], 2, []), ([7], 2, [0, 1])],
)
def test_slots(taken: list[int], limit: int, free: list[int]) -> None:
    assert uploads.free_slots(taken, limit) == free


@pytest.mark.parametrize(
    ("pieces", "end", "expected"),
    [
        ({}, None, []),
        ({5: 1}, None, []),
        ({0: 5, 5: 3, 8: 1}, None, [(0, 5), (5, 3), (8, 1)]),
        ({0: 5, 6: 3}, None, [(0, 5)]),
        ({0: 5, 5: 0}, None, [(0, 5)]),
        ({0: 5, 5: 3}, 5, [(0, 5)]),
        ({0: 5, 5: 3}, 0, []),
    ],
)
def test_only_pieces_without_a_gap_count(
    pieces: dict[int, int], end: int | None, expected: list[tuple[int, int]]
) -> None:
    assert uploads.chain(pieces, end) == expected


@given(st.lists(st.integers(1, 9)), st.integers(0, 60))
def test_a_chain_ends_at_the_first_gap(sizes: list[int], lost: int) -> None:
    starts = [sum(sizes[:number]) for number in range(len(sizes))]
    pieces = {start: size for start, size in zip(starts, sizes, strict=True) if start != lost}
    expected = lost if lost in starts else sum(sizes)
    assert sum(size for _, size in uploads.chain(pieces)) == expected


@pytest.mark.parametrize(("value", "number"), [(None, None), ("0", 0), (" 12 ", 12), ("9" * 15, 10**15 - 1)])
def test_integers(value: str | None, number: int | None) -> None:
    assert uploads.parse_integer("Upload-Offset", value) == number


@pytest.mark.parametrize("value", ["", "-1", "+1", "1.0", "0x1", "1" * 16, "\u0661", "1, 1", "?1", "1;a=b"])
def test_what_is_no_integer_is_refused(value: str) -> None:
    with pytest.raises(errors.Problem, match="`Upload-Offset` must be an integer") as refused:
        uploads.parse_integer("Upload-Offset", value)
    assert refused.value.kind is errors.BAD_REQUEST


@pytest.mark.parametrize(("value", "expected"), [(None, None), ("?0", False), (" ?1", True)])
def test_booleans(value: str | None, expected: bool | None) -> None:
    assert uploads.parse_complete(value) is expected
    if expected is not None:
        assert uploads.parse_complete(uploads.format_complete(expected)) is expected


@pytest.mark.parametrize("value", ["", "1", "true", "?2", "?1, ?1"])
def test_what_is_no_boolean_is_refused(value: str) -> None:
    with pytest.raises(errors.Problem, match="must be"):
        uploads.parse_complete(value)


@pytest.mark.parametrize(
    ("found", "append", "most"),
    [
        (state(), Append(0, is_last=False, count=None), LIMIT),
        (state(5), Append(5, is_last=False, count=10), LIMIT - 5),
        (state(5, length_bytes=15), Append(5, is_last=True, count=10), 10),
        (state(5, length_bytes=15), Append(5, is_last=False, count=None), 10),
        (state(5, length_bytes=5), Append(5, is_last=True, count=0), 0),
        (state(7, SEAL), Append(7, is_last=True, count=0), 0),
        (
            dataclasses.replace(state(7, pieces=uploads.PIECES_MAX_COUNT), pieces_max=1 << 18),
            Append(7, is_last=False, count=1),
            LIMIT - 7,
        ),
        (state(7, pieces=uploads.PIECES_MAX_COUNT), Append(7, is_last=True, count=0), LIMIT - 7),
    ],
)
def test_an_append_at_the_end_may_bring_what_is_left(found: State, append: Append, most: int) -> None:
    assert uploads.check_append(found, append, LIMIT) == most


@pytest.mark.parametrize(
    ("found", "append", "kind", "offset"),
    [
        (state(5), Append(0, is_last=False, count=1), errors.CONFLICT, "5"),
        (state(5), Append(6, is_last=False, count=1), errors.CONFLICT, "5"),
        (state(5, length_bytes=9), Append(4, is_last=False, count=1), errors.CONFLICT, "5"),
        (state(5, length_bytes=9), Append(10, is_last=False, count=0), errors.RANGE_NOT_SATISFIABLE, "5"),
        (state(5, length_bytes=9), Append(5, is_last=False, count=5), errors.RANGE_NOT_SATISFIABLE, "5"),
        (state(7, SEAL), Append(7, is_last=False, count=1), errors.RANGE_NOT_SATISFIABLE, "7"),
        (state(5), Append(5, is_last=False, count=LIMIT), errors.PAYLOAD_TOO_LARGE, "5"),
        (
            state(5, pieces=uploads.PIECES_MAX_COUNT),
            Append(5, is_last=False, count=1),
            errors.PAYLOAD_TOO_LARGE,
            "5",
        ),
        (state(5, length_bytes=9), Append(5, is_last=True, count=3), errors.BAD_REQUEST, None),
    ],
)
def test_a_refused_append_is_told_where_to_go_on(
    found: State, append: Append, kind: errors.ErrorKind, offset: str | None
) -> None:
    with pytest.raises(errors.Problem, match=r"must|has") as refused:
        uploads.check_append(found, append, LIMIT)
    assert refused.value.kind is kind
    assert refused.value.headers.get("Upload-Offset") == offset


def test_an_upload_is_complete_only_with_all_bytes() -> None:
    uploads.check_end(9, 9)
    uploads.check_end(9, None)
    with pytest.raises(errors.Problem, match="8 of 9 bytes"):
        uploads.check_end(8, 9)


def test_the_limit_is_told_with_numbers() -> None:
    problem = uploads.over_limit(64, 64)
    assert (problem.kind, problem.usage) == (errors.QUOTA_EXCEEDED, {"sessions": 64, "maxSessions": 64})
    assert problem.headers["Retry-After"] == "60"


DAY, HOUR, SECOND = timedelta(days=1), timedelta(hours=1), timedelta(seconds=1)


@pytest.mark.parametrize(
    ("entry", "idle", "expected"),
    [
        (state(), timedelta(), "keep"),
        (state(), HOUR - SECOND, "keep"),
        (state(), HOUR, "ask"),
        (state(), DAY - SECOND, "ask"),
        (state(), DAY, "remove"),
        (Leftover(ID, NOW), HOUR - SECOND, "keep"),
        (Leftover(ID, NOW), HOUR, "remove"),
        (Leftover(ID, NOW), -HOUR, "keep"),  # a clock that is behind
    ],
)
def test_what_is_collected(entry: State | Leftover, idle: timedelta, expected: str) -> None:
    assert uploads.verdict(entry, NOW + idle, DAY) == expected


def test_a_short_expiry_counts_for_sessions_alone() -> None:
    assert uploads.verdict(state(), NOW + SECOND, SECOND) == "remove"
    assert uploads.verdict(Leftover(ID, NOW), NOW + SECOND, SECOND) == "keep"


AWAITING = {"metadata": {"uid": "u"}, "spec": {"upload": {}}}


@pytest.mark.parametrize(
    ("artifact", "has_failed", "awaited"),
    [
        (AWAITING, False, True),
        (AWAITING, True, False),
        (None, False, False),
        ({**AWAITING, "metadata": {"uid": "other"}}, False, False),
        ({**AWAITING, "metadata": {"uid": "u", "deletionTimestamp": "t"}}, False, False),
        ({**AWAITING, "spec": {"upload": {"digest": DIGEST}}}, False, False),
        ({**AWAITING, "spec": {"inline": {}}}, False, False),
    ],
)
def test_whether_an_artifact_still_waits(artifact: Any, has_failed: bool, awaited: bool) -> None:
    assert uploads.is_awaited(session(), artifact, has_failed=has_failed) is awaited


@pytest.mark.parametrize(
    ("files", "awaited"),
    [
        ([{"name": "f", "upload": {}}], True),
        ([{"name": "f", "upload": {"digest": DIGEST}}, {"name": "g", "upload": {}}], False),
        ([{"name": "f", "inline": {}}], False),
        ([{"name": "g", "upload": {}}, {"name": "done", "upload": {}}], False),
        (None, False),
    ],
)
def test_whether_a_file_still_waits(files: Any, awaited: bool) -> None:
    recorded = {"done": {"digest": DIGEST, "sizeBytes": 1}}
    artifact = {"metadata": {"uid": "u"}, "spec": {"files": files, "fileUploads": recorded}}
    assert uploads.is_awaited(session(file="f"), artifact, has_failed=False) is awaited
    assert not uploads.is_awaited(session(file="done"), artifact, has_failed=False)
