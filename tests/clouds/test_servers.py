"""Prove the two servers: what the store's tests rely on holds."""

import asyncio
import uuid
from pathlib import Path
from typing import Any

import obstore
import pytest
from obstore.exceptions import (
    AlreadyExistsError,
    GenericError,
    PermissionDeniedError,
    PreconditionError,
    UnauthenticatedError,
)
from obstore.store import GCSStore

from tests.clouds import gcs_access
from tests.clouds.conftest import Cloud
from tests.clouds.gcs import Gcs
from tests.clouds.gcs_objects import Objects, RefusedError


@pytest.fixture
def key() -> str:
    return f"proof/{uuid.uuid4()}"


async def test_of_many_that_create_one_wins(cloud: Cloud, key: str) -> None:
    client = cloud.store()
    tries = [obstore.put_async(client, key, b"%d" % n, mode="create") for n in range(16)]
    answers = await asyncio.gather(*tries, return_exceptions=True)
    won = [number for number, answer in enumerate(answers) if not isinstance(answer, BaseException)]
    assert len(won) == 1
    assert all(isinstance(each, AlreadyExistsError) for each in answers if isinstance(each, BaseException))
    assert bytes(obstore.get(client, key).bytes()) == b"%d" % won[0]


async def test_of_many_that_copy_onto_nothing_one_wins(cloud: Cloud, key: str) -> None:
    client = cloud.store()
    for number in range(8):
        obstore.put(client, f"{key}/{number}", b"%d" % number)
    copies = [obstore.copy_async(client, f"{key}/{n}", key, overwrite=False) for n in range(8)]
    answers = await asyncio.gather(*copies, return_exceptions=True)
    assert sum(answer is None for answer in answers) == 1
    assert all(isinstance(each, AlreadyExistsError) for each in answers if each is not None)


async def test_of_many_that_replace_what_they_saw_one_wins(cloud: Cloud, key: str) -> None:
    client = cloud.store()
    put = obstore.put(client, key, b"seen")
    seen: Any = {name: value for name, value in put.items() if value is not None}
    tries = [obstore.put_async(client, key, b"%d" % n, mode=seen) for n in range(16)]
    answers = await asyncio.gather(*tries, return_exceptions=True)
    assert sum(not isinstance(answer, BaseException) for answer in answers) == 1
    assert all(isinstance(each, PreconditionError) for each in answers if isinstance(each, BaseException))


def test_parts_are_no_object_before_the_end(cloud: Cloud, key: str) -> None:
    client = cloud.store()
    with obstore.open_writer(client, key, buffer_size=5 << 20) as writer:
        writer.write(bytes(11 << 20))
        with pytest.raises(FileNotFoundError):
            obstore.head(client, key)
    assert obstore.head(client, key)["size"] == 11 << 20


def test_a_token_of_another_key_is_refused(gcs: Gcs) -> None:
    stranger = GCSStore(
        gcs.bucket,
        base_url=gcs.endpoint,
        service_account_key=gcs_access.service_account(),
        client_options={"allow_http": True},
    )
    with pytest.raises((UnauthenticatedError, PermissionDeniedError)):
        obstore.put(stranger, "proof", b"x")


def test_what_is_missing_cannot_be_deleted(gcs: Gcs, key: str) -> None:
    with pytest.raises(FileNotFoundError):
        obstore.delete(gcs.store(), key)


def test_small_parts_are_refused(gcs: Gcs, key: str) -> None:
    with pytest.raises(GenericError, match="EntityTooSmall"):
        obstore.put(gcs.store(), key, bytes(3 << 20), use_multipart=True, chunk_size=1 << 20)


def test_parts_must_be_those_that_were_sent(tmp_path: Path) -> None:
    objects = Objects(tmp_path)
    upload = objects.begin()
    tag = objects.part(upload, 1, b"one")
    for parts, code in (
        ([], "InvalidPartOrder"),
        ([(2, tag)], "InvalidPart"),
        ([(1, '"other"')], "InvalidPart"),
        ([(1, tag), (1, tag)], "InvalidPartOrder"),
    ):
        with pytest.raises(RefusedError, match=code):
            objects.complete(upload, "name", parts)
    assert objects.names("") == []
    assert objects.complete(upload, "name", [(1, tag)]).size == 3
    assert Objects(tmp_path).get("name").size == 3
