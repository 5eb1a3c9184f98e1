"""Tenants, grants, and the checks that bind headers to an identity."""

from typing import Any

import pytest

from manifestry.core import errors
from manifestry.core.access import headers, identities
from manifestry.core.access.permissions import Action, Role

SUBJECT = "system:serviceaccount:ns-acme:ci"
WHO = identities.Identity(SUBJECT, identities.kubernetes_groups(SUBJECT), "kubernetes")
ACME = identities.Tenant("acme", "ns-acme", "uid-1")


def namespace(name: str, tenant: Any = None) -> dict[str, Any]:
    labels = {"manifestry.dev/tenant": tenant} if tenant is not None else {}
    return {"metadata": {"name": name, "uid": f"uid-{name}", "labels": labels}}


def binding(role: Any, *subjects: Any, kind: Any = "ClusterRole") -> dict[str, Any]:
    return {"roleRef": {"kind": kind, "name": role}, "subjects": list(subjects)}


def account(name: str = "ci", namespace: Any = "ns-acme") -> dict[str, Any]:
    return {"kind": "ServiceAccount", "name": name, "namespace": namespace}


def named(kind: Any, name: str, group: Any = "rbac.authorization.k8s.io") -> dict[str, Any]:
    return {"kind": kind, "name": name, "apiGroup": group}


def test_a_tenant_is_exactly_one_labelled_namespace() -> None:
    found = identities.directory(
        [
            namespace("a", "one"),
            namespace("b"),
            namespace("c", "two"),
            namespace("d", "two"),
            namespace("e", ""),
        ]
    )
    assert found.tenants == {"one": identities.Tenant("one", "a", "uid-a")}
    assert found.ambiguous == {"two": ("c", "d")}


@pytest.mark.parametrize(
    ("subject", "expected"),
    [
        (SUBJECT, ("ns-acme", "ci")),
        ("system:serviceaccount:a", None),
        ("system:serviceaccount:a:", None),
        ("system:serviceaccount::b", None),
        ("system:serviceaccount:a:b:c", None),
        ("alice", None),
    ],
)
def test_service_account_subjects(subject: Any, expected: Any) -> None:
    assert identities.service_account(subject) == expected
    assert bool(identities.kubernetes_groups(subject)) == (expected is not None)


@pytest.mark.parametrize(
    ("subject", "method", "accepted"),
    [
        (SUBJECT, "kubernetes", True),
        ("alice", "jwt", True),
        ("spiffe://example.org/ci", "certificate", True),
        (SUBJECT, "jwt", False),
        (SUBJECT, "certificate", False),
        ("system:admin", "kubernetes", False),
        ("system:serviceaccount:a:b:c", "kubernetes", False),
        ("system:masters", "jwt", False),
        ("system:", "kubernetes", False),
        ("", "jwt", False),
        ("  ", "kubernetes", False),
    ],
)
def test_reserved_and_empty_subjects_are_refused(subject: Any, method: Any, accepted: Any) -> None:
    identity = identities.Identity(subject, (), method)
    if accepted:
        identities.check_subject(identity)
        return
    with pytest.raises(errors.Problem) as caught:
        identities.check_subject(identity)
    assert caught.value.kind is errors.UNAUTHENTICATED


@pytest.mark.parametrize(
    ("subject", "granted"),
    [
        (account(), True),
        (account(name="other"), False),
        (account(namespace="ns-other"), False),
        ({"kind": "ServiceAccount", "name": "ci"}, False),
        (named("User", SUBJECT), True),
        (named("User", "alice"), False),
        (named("User", SUBJECT, group=""), False),
        (named("Group", "system:serviceaccounts"), True),
        (named("Group", "system:serviceaccounts:ns-acme"), True),
        (named("Group", "system:serviceaccounts:ns-other"), False),
        (named("Group", "system:authenticated"), True),
        (named("Group", "system:unauthenticated"), False),
        (named("Robot", SUBJECT), False),
        ({}, False),
    ],
)
def test_subjects_of_a_role_binding(subject: Any, granted: Any) -> None:
    table = identities.grants([binding("manifestry-operator", subject)])
    assert identities.granted(WHO, table) == ({Role.OPERATOR} if granted else set())


@pytest.mark.parametrize(
    ("role", "kind"),
    [
        ("cluster-admin", "ClusterRole"),
        ("manifestry-root", "ClusterRole"),
        ("manifestry-reader", "ClusterRole"),
        ("manifestry-", "ClusterRole"),
        ("manifestry-admin", "Role"),
    ],
)
def test_other_roles_grant_nothing(role: Any, kind: Any) -> None:
    assert identities.grants([binding(role, account(), kind=kind)]) == {}


def test_bindings_without_subjects_or_reference_grant_nothing() -> None:
    assert identities.grants([{}, {"roleRef": None, "subjects": None}, binding("manifestry-admin")]) == {}


def test_several_bindings_add_up() -> None:
    table = identities.grants(
        [binding("manifestry-viewer", account()), binding("manifestry-publisher", account())]
    )
    assert identities.granted(WHO, table) == {Role.VIEWER, Role.PUBLISHER}


def request(
    *,
    actor: Any = SUBJECT,
    tenant: Any = ACME,
    claimed: Any = (Role.OPERATOR,),
    granted: Any = (Role.OPERATOR,),
    action: Any = Action.JOBS_SUBMIT,
) -> identities.Request:
    claims = headers.Claims(actor, "acme", "why", frozenset(claimed))
    return identities.Request(WHO, claims, tenant, frozenset(granted), action)


def test_all_checks_met_gives_the_tenant() -> None:
    assert identities.authorize(request()) is ACME


@pytest.mark.parametrize(
    ("wrong", "rule"),
    [
        ({"actor": "alice"}, "actor-is-subject"),
        ({"tenant": None, "granted": ()}, "tenant-member"),
        ({"granted": ()}, "tenant-member"),
        ({"claimed": (Role.ADMIN,)}, "roles-are-granted"),
        ({"claimed": (Role.OPERATOR, Role.PUBLISHER)}, "roles-are-granted"),
        ({"claimed": (Role.VIEWER,)}, "jobs:submit"),
    ],
)
def test_each_check_refuses_with_its_rule(wrong: Any, rule: str) -> None:
    with pytest.raises(errors.Problem) as caught:
        identities.authorize(request(**wrong))
    assert caught.value.kind is errors.FORBIDDEN
    assert f"rule `{rule}`" in caught.value.detail


def test_absent_and_foreign_tenants_cannot_be_told_apart() -> None:
    answers = []
    for wrong in ({"tenant": None, "granted": ()}, {"granted": ()}):
        with pytest.raises(errors.Problem) as caught:
            identities.authorize(request(**wrong))
        answers.append(caught.value.detail)
    assert answers[0] == answers[1]


def test_narrowing_is_allowed() -> None:
    assert (
        identities.authorize(request(claimed=(Role.VIEWER,), granted=(Role.ADMIN,), action=Action.JOBS_READ))
        is ACME
    )
