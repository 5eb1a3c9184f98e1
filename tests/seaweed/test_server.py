"""Prove the S3 fixture: what the store's tests rely on holds."""

import obstore
import pytest
from obstore.exceptions import AlreadyExistsError, BaseError, PermissionDeniedError
from obstore.store import S3Store

from tests.seaweed.plugin import MakeS3
from tests.seaweed.server import REGION, S3Server


def test_bytes_come_back(s3: S3Server) -> None:
    store = s3.store()
    obstore.put(store, "proof/a", b"hello")
    assert bytes(obstore.get(store, "proof/a").bytes()) == b"hello"


def test_create_if_absent_is_honoured(s3: S3Server) -> None:
    store = s3.store()
    obstore.put(store, "proof/once", b"first", mode="create")
    with pytest.raises(AlreadyExistsError):
        obstore.put(store, "proof/once", b"second", mode="create")
    assert bytes(obstore.get(store, "proof/once").bytes()) == b"first"


def test_a_wrong_secret_is_refused(s3: S3Server) -> None:
    stranger = S3Store(
        bucket=s3.bucket,
        endpoint=s3.endpoint,
        region=REGION,
        access_key_id=s3.access_key,
        secret_access_key="wrong",
        client_options={"allow_http": True},
    )
    with pytest.raises(PermissionDeniedError):
        obstore.put(stranger, "proof/b", b"hello")


def test_data_outlive_a_kill(make_s3: MakeS3) -> None:
    server = make_s3()
    obstore.put(server.store(), "kept", b"hello")
    server.kill()
    with pytest.raises(BaseError):
        obstore.get(server.store(), "kept")
    server.start()
    assert bytes(obstore.get(server.store(), "kept").bytes()) == b"hello"


def test_a_paused_server_times_out_and_comes_back(make_s3: MakeS3) -> None:
    server = make_s3()
    server.pause()
    with pytest.raises(BaseError):
        obstore.get(server.store(), "ready")
    server.resume()
    assert bytes(obstore.get(server.store(), "ready").bytes()) == b"ready"
