"""The table of errors."""

import re

import pytest

from manifestry.core import errors


def test_codes_are_stable_unique_kebab_case() -> None:
    codes = [kind.code for kind in errors.TABLE]
    assert len(codes) == len(set(codes)) > 15
    assert all(re.fullmatch(r"[a-z]+(-[a-z]+)*", code) for code in codes)


@pytest.mark.parametrize("kind", errors.TABLE, ids=lambda kind: kind.code)
def test_every_kind_is_an_error_status_with_a_title(kind: errors.ErrorKind) -> None:
    assert 400 <= kind.status < 600
    assert kind.title
    assert not kind.title.endswith(".")


def test_only_what_passes_by_itself_is_retryable() -> None:
    assert {kind.status for kind in errors.TABLE if kind.retryable} == {429, 503}


def test_a_problem_says_its_code_and_detail() -> None:
    problem = errors.Problem(errors.NOT_FOUND, "no artifact 'a'")
    assert str(problem) == "not-found: no artifact 'a'"
    with pytest.raises(errors.Problem):
        raise problem


def test_an_invalid_field_is_named() -> None:
    problem = errors.invalid("/spec/jobType", "`spec.jobType` must be set")
    assert problem.kind is errors.VALIDATION_FAILED
    assert problem.errors == (errors.FieldError("/spec/jobType", "`spec.jobType` must be set"),)
