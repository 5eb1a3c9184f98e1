"""The pytest fixtures of the S3 server."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from tests.seaweed.server import S3Server

MakeS3 = Callable[[], S3Server]


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """Give the session's S3 server; tests use keys of their own and leave it running."""
    server = S3Server(tmp_path_factory.mktemp("s3"))
    try:
        server.start()
        yield server
    finally:
        server.dispose()


@pytest.fixture
def make_s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MakeS3]:
    """Give a function that starts an S3 server for this test alone, to be paused or killed."""
    with ExitStack() as stack:

        def make() -> S3Server:
            server = S3Server(tmp_path_factory.mktemp("s3"))
            stack.callback(server.dispose)
            server.start()
            return server

        yield make
