"""The four required headers."""

from typing import Any

import pytest

from manifestry.core import errors
from manifestry.core.access import headers
from manifestry.core.access.permissions import Role

GOOD = {
    "X-Actor": ["system:serviceaccount:a:b"],
    "X-Tenant": ["acme"],
    "X-Reason": ["ticket 42"],
    "X-Roles": ["viewer"],
}


def test_good_headers_become_claims() -> None:
    claims = headers.parse({**GOOD, "X-Reason": ["  Prüfung, 42  "], "X-Roles": ["reader, operator,"]})
    assert claims == headers.Claims(
        "system:serviceaccount:a:b", "acme", "Prüfung, 42", frozenset({Role.VIEWER, Role.OPERATOR})
    )


@pytest.mark.parametrize("name", headers.REQUIRED)
@pytest.mark.parametrize("values", [None, [], [""], ["   "], ["\t"], ["\u00a0"], ["", " "]])
def test_a_missing_or_blank_header_is_401_and_named(name: str, values: Any) -> None:
    sent = {key: value for key, value in GOOD.items() if key != name}
    if values is not None:
        sent[name] = values
    with pytest.raises(errors.Problem) as caught:
        headers.parse(sent)
    assert caught.value.kind is errors.AUDIT_HEADER_MISSING
    assert f"`{name}`" in caught.value.detail


@pytest.mark.parametrize("text", [",", " , ,", ",,"])
def test_roles_without_a_name_are_missing(text: str) -> None:
    with pytest.raises(errors.Problem) as caught:
        headers.parse({**GOOD, "X-Roles": [text]})
    assert caught.value.kind is errors.AUDIT_HEADER_MISSING


@pytest.mark.parametrize("name", headers.REQUIRED)
@pytest.mark.parametrize("bad", ["long", "twice", "a\x00b", "a\nb", "a\u200bb", "a\x1b[0m"])
def test_a_malformed_header_is_400_and_not_echoed(name: str, bad: Any) -> None:
    values = {"long": ["x" * (headers.LIMITS[name] + 1)], "twice": ["viewer", "admin"]}.get(bad, [bad])
    with pytest.raises(errors.Problem) as caught:
        headers.parse({**GOOD, name: values})
    assert caught.value.kind is errors.BAD_REQUEST
    assert f"`{name}`" in caught.value.detail
    assert caught.value.detail.isprintable()


def test_an_unknown_role_is_403() -> None:
    with pytest.raises(errors.Problem) as caught:
        headers.parse({**GOOD, "X-Roles": ["viewer,root"]})
    assert caught.value.kind is errors.FORBIDDEN
    assert "root" in caught.value.detail


def test_what_was_read_before_decides_nothing_about_other_headers() -> None:
    for reason in ("one", "two", "one"):
        for roles in ("viewer", "admin"):
            claims = headers.parse({**GOOD, "X-Reason": [reason], "X-Roles": [roles]})
            assert (claims.reason, claims.roles) == (reason, frozenset({Role(roles)}))
    for _ in range(2):  # a refusal is not remembered as something else
        with pytest.raises(errors.Problem):
            headers.parse({**GOOD, "X-Reason": ["one", "one"]})
