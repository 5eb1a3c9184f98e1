"""Notes of failed downloads: they name one Artifact, or they are no notes."""

import uuid

import pytest

from manifestry.core.artifacts import suspects
from manifestry.core.artifacts.suspects import Suspect
from manifestry.core.blobs import keys

UID = str(uuid.uuid4())


def test_a_note_is_read_as_it_was_written() -> None:
    for name in ("a", "a.b-c", ".".join(["x" * 63] * 3), "x" * 253):
        suspect = Suspect(UID, "team", name)
        data = suspects.to_bytes(suspect)
        assert suspects.parse(suspects.key(UID), data) == suspect
        assert len(data) <= suspects.NOTE_MAX_BYTES


def test_a_key_is_built_from_a_uuid_only() -> None:
    assert suspects.key(UID) == f"suspects/{UID}"
    with pytest.raises(keys.KeyPartError):
        suspects.key("../owner.json")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"\xff",
        b"[]",
        b"{}",
        b'{"namespace": "team"}',
        b'{"namespace": "team", "name": 7}',
        b'{"namespace": "team", "name": "../a"}',
        b'{"namespace": "team", "name": "a/status"}',
        b'{"namespace": "team", "name": "a..b"}',
        b'{"namespace": "", "name": "a"}',
        b'{"namespace": "a.b", "name": "a"}',
        b'{"namespace": "team", "name": "' + b"x" * 254 + b'"}',
    ],
)
def test_what_names_no_object_is_no_note(data: bytes) -> None:
    assert suspects.parse(suspects.key(UID), data) is None


def test_what_has_no_uuid_in_its_key_is_no_note() -> None:
    data = suspects.to_bytes(Suspect(UID, "team", "a"))
    assert suspects.parse("suspects/stray", data) is None
    assert suspects.parse("", data) is None
