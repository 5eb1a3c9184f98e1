"""The commands of an administrator: what is asked, and what is shown of a tenant."""

from datetime import UTC, datetime, timedelta

import pytest

from manifestry.adapters.store.ownership.tenants import Found
from manifestry.core.blobs.tenantrecords import Fate, TenantRecord
from manifestry.handlers.commands import store

UID = "0a92dd33-98e9-4a1d-b0a4-997e6df94d3c"
SINCE = datetime(2026, 5, 4, tzinfo=UTC)
WEEK = timedelta(days=7)


def test_without_a_command_the_operator_is_meant() -> None:
    assert store.parse([]).area is None


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["show"], ("show", None, None)),
        (["release"], ("release", None, None)),
        (["adopt"], ("adopt", "", None)),
        (["adopt", "--from", "uid"], ("adopt", "uid", None)),
        (["adopt-tenant", UID], ("adopt-tenant", None, UID)),
    ],
)
def test_a_command_is_understood(arguments: list[str], said: tuple[str, str | None, str | None]) -> None:
    asked = store.parse(["store", *arguments])
    assert (asked.command, getattr(asked, "given", None), getattr(asked, "uid", None)) == said


@pytest.mark.parametrize(
    "arguments", [["store"], ["store", "steal"], ["store", "adopt-tenant", "../x"], ["x"]]
)
def test_anything_else_is_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        store.parse(arguments)
    assert ended.value.code == 2
    assert "usage" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("found", "fate", "due"),
    [
        (Found(TenantRecord("mine", "team"), SINCE), "waiting", "2026-05-11T00:00:00+00:00"),
        (Found(TenantRecord("mine", "team"), SINCE), "due", "2026-05-11T00:00:00+00:00"),
        (Found(TenantRecord("mine", "team"), None), "missed", ""),
        (Found(TenantRecord("theirs", "team"), SINCE), "foreign", ""),
        (Found(None, None), "unknown", ""),
    ],
)
def test_only_what_goes_by_itself_has_a_date(found: Found, fate: Fate, due: str) -> None:
    shown = store.row(UID, found, fate, WEEK)
    assert (shown["tenantUid"], shown["fate"], shown["due"]) == (UID, fate, due)
