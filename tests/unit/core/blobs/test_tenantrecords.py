"""What becomes of a tenant whose namespace is gone."""

from datetime import UTC, datetime, timedelta

import pytest

from manifestry.core.blobs import tenantrecords
from manifestry.core.blobs.tenantrecords import Fate, Seen, TenantRecord

NOW = datetime(2026, 5, 4, tzinfo=UTC)
GRACE = timedelta(days=7)
OURS, THEIRS = TenantRecord("mine", "team"), TenantRecord("theirs", "team")


@pytest.mark.parametrize(
    ("record", "is_live", "gone_days", "fate"),
    [
        (OURS, True, None, "live"),
        (OURS, True, 30, "live"),
        (None, True, None, "live"),
        (THEIRS, True, None, "foreign"),
        (THEIRS, False, 30, "foreign"),
        (None, False, None, "unknown"),
        (None, False, 30, "unknown"),
        (OURS, False, None, "missed"),
        (OURS, False, 0, "waiting"),
        (OURS, False, 6, "waiting"),
        (OURS, False, 7, "due"),
    ],
)
def test_only_what_is_ours_goes_and_only_after_days(
    record: TenantRecord | None, is_live: bool, gone_days: int | None, fate: Fate
) -> None:
    since = None if gone_days is None else NOW - timedelta(days=gone_days)
    assert tenantrecords.fate(Seen(record, is_live, since), "mine", NOW, GRACE) == fate


@pytest.mark.parametrize(
    "data",
    [None, b"", b"{", b"[]", b'{"clusterUid": "", "namespace": "n"}', b'{"clusterUid": "x"}', b"\xff"],
)
def test_what_cannot_be_read_is_no_record(data: bytes | None) -> None:
    assert tenantrecords.parse(data) is None


def test_a_record_comes_back() -> None:
    assert tenantrecords.parse(tenantrecords.render(OURS)) == OURS
