"""Reading hack/versions.toml."""

import pytest

import versions


def test_the_committed_file_has_every_pin() -> None:
    pins = vars(versions.load())
    assert [name for name, pin in pins.items() if not pin] == ["node_image_is_given"]


def test_a_node_image_of_the_users_choice_wins() -> None:
    chosen = versions.chosen(versions.load(), {"MANIFESTRY_NODE_IMAGE": "mirror.example/kindest/node:v1"})
    assert chosen.kind_node_image == "mirror.example/kindest/node:v1"
    assert chosen.node_image_is_given
    assert versions.chosen(versions.load(), {"MANIFESTRY_NODE_IMAGE": ""}) == versions.load()


def test_the_minor_release_is_two_numbers() -> None:
    assert versions.load().kubernetes_minor[0] == "1"


def test_a_missing_section_is_an_error() -> None:
    with pytest.raises(KeyError):
        versions.parse({})
