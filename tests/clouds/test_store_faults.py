"""What only a network can do to a store (tests/component/store/test_remote.py), done to both clouds."""

import uuid

import pytest

from manifestry.adapters.store.contract import ports
from manifestry.core.blobs import digests
from tests.clouds import promises
from tests.clouds.conftest import Cloud, MakeCloud
from tests.component.store import test_remote as contract

OTHERWISE = {
    "test_a_store_that_is_gone_is_unavailable_and_returns": "said below: Azurite writes its index every few "
    "seconds, so a kill loses what it has acknowledged; and what a paused server has in its sockets it does "
    "when it goes on, a deletion too",
    "test_wrong_credentials_are_unavailable_and_never_shown": "said in test_access.py, as a key has a form",
}
globals().update(promises.of(contract, "s3", OTHERWISE) | promises.of(contract, "make_s3", OTHERWISE))


@pytest.fixture
def s3(cloud: Cloud) -> Cloud:
    return cloud


@pytest.fixture
def make_s3(make_cloud: MakeCloud) -> MakeCloud:
    return make_cloud


async def test_a_paused_store_is_unavailable_and_returns(make_cloud: MakeCloud) -> None:
    server = make_cloud()
    used = contract.open_s3(server.settings())
    blob = await used.put(contract.TENANT, b"not deleted")
    staged = await used.stage(contract.one(b"staged"), limit_bytes=6)
    server.pause()
    await contract.everything_fails(used, staged)
    server.resume()
    assert await used.read(contract.TENANT, blob.digest, limit_bytes=11) == b"not deleted"
    published = await used.publish(contract.TENANT, staged)
    assert await used.read(contract.TENANT, published.digest, limit_bytes=9) == b"staged"


async def test_a_store_that_does_not_listen_is_unavailable_and_returns(make_cloud: MakeCloud) -> None:
    server = make_cloud()
    used = contract.open_s3(server.settings())
    staged = await used.stage(contract.one(b"staged"), limit_bytes=6)
    server.kill()
    await contract.everything_fails(used, staged)
    server.start()
    await used.canary()


async def test_a_bucket_that_is_missing_is_unavailable(cloud: Cloud) -> None:
    used = contract.open_s3(cloud.settings(), bucket="elsewhere")
    with pytest.raises(ports.StoreUnavailableError, match="no such bucket"):
        await used.put(contract.TENANT, b"x")
    with pytest.raises(ports.StoreUnavailableError):
        await used.look()
    assert await used.head(str(uuid.uuid4()), digests.of(b"")) is None
