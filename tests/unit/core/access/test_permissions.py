"""The access table: every action, every role, and what a role may claim."""

from typing import Any

import pytest

from manifestry.core.access import permissions
from manifestry.core.access.permissions import Action, Role

# The README's table in the order viewer, publisher, operator, admin; written out again on purpose.
EXPECTED = {
    Action.ARTIFACTS_READ: "vpoa",
    Action.ARTIFACTS_DOWNLOAD: "vpoa",
    Action.ARTIFACTS_WRITE: "p a",
    Action.ARTIFACTS_DELETE: "p a",
    Action.JOBS_READ: "vpoa",
    Action.JOBS_LOGS: "vpoa",
    Action.JOBS_SUBMIT: "oa",
    Action.JOBS_CONTROL: "oa",
    Action.JOBS_DELETE: "oa",
    Action.JOB_TYPES_READ: "vpoa",
    Action.QUOTAS_READ: "vpoa",
    Action.LINEAGE_READ: "vpoa",
    Action.AUDIT_READ: "a",
    Action.INTEGRITY_CHECK: "a",
    Action.GARBAGE_COLLECT: "a",
    Action.RETAINED_READ: "a",
    Action.RETAINED_DELETE: "a",
}


@pytest.mark.parametrize("action", Action)
@pytest.mark.parametrize("role", Role)
def test_each_role_may_do_exactly_what_the_table_says(action: permissions.Action, role: Any) -> None:
    decision = permissions.decide(action, [role])
    assert isinstance(decision, permissions.Allowed) == (role[0] in EXPECTED[action])


def test_every_action_has_a_row() -> None:
    assert set(permissions.TABLE) == set(Action)


@pytest.mark.parametrize("action", Action)
def test_no_role_means_no_action(action: permissions.Action) -> None:
    assert isinstance(permissions.decide(action, []), permissions.Denied)


def test_an_action_without_a_row_is_denied_to_everybody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(permissions, "TABLE", {})
    decision = permissions.decide(Action.JOBS_READ, list(Role))
    assert decision == permissions.Denied("jobs:read", ())
    assert decision.message.endswith("roles: none")


def test_a_denial_names_the_rule_and_the_roles_that_would_do() -> None:
    decision = permissions.decide(Action.JOBS_SUBMIT, [Role.VIEWER])
    assert isinstance(decision, permissions.Denied)
    assert decision.message == "rule `jobs:submit` must be met by one of the roles: operator, admin"


def test_one_sufficient_role_among_several_is_enough() -> None:
    assert permissions.decide(Action.JOBS_SUBMIT, [Role.VIEWER, Role.OPERATOR]) == permissions.Allowed()


@pytest.mark.parametrize(
    ("granted", "claimable"),
    [
        ([], set()),
        ([Role.VIEWER], {Role.VIEWER}),
        ([Role.PUBLISHER], {Role.VIEWER, Role.PUBLISHER}),
        ([Role.OPERATOR], {Role.VIEWER, Role.OPERATOR}),
        ([Role.PUBLISHER, Role.OPERATOR], {Role.VIEWER, Role.PUBLISHER, Role.OPERATOR}),
        ([Role.ADMIN], set(Role)),
    ],
)
def test_roles_may_be_narrowed_and_never_widened(granted: Any, claimable: Any) -> None:
    assert permissions.covered(frozenset(granted)) == claimable


@pytest.mark.parametrize(
    ("text", "role"),
    [
        ("viewer", Role.VIEWER),
        ("reader", Role.VIEWER),
        ("admin", Role.ADMIN),
        ("Admin", None),
        ("root", None),
    ],
)
def test_role_names_are_exact_and_reader_means_viewer(text: str, role: Any) -> None:
    assert permissions.parse_role(text) is role
