"""Reading hack/versions.toml."""

import pytest

import versions


def test_the_committed_file_has_every_pin() -> None:
    pins = versions.load()
    assert all(vars(pins).values())


def test_the_minor_release_is_two_numbers() -> None:
    assert versions.load().kubernetes_minor[0] == "1"


def test_a_missing_section_is_an_error() -> None:
    with pytest.raises(KeyError):
        versions.parse({})
