"""The two clouds as fixtures: `cloud` gives a test each of them."""

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.clouds.azurite import Azurite, NoNodeError, program
from tests.clouds.gcs import Gcs

# The asserts of what is taken over should say what was compared; in a run with the others they do already.
pytest.register_assert_rewrite(*{"tests.component", "tests.cluster"} - sys.modules.keys())

Cloud = Azurite | Gcs
MakeCloud = Callable[[], Cloud]


def make(kind: str, folder: Path) -> Cloud:
    """Return a server that was not started yet."""
    if kind == "gcs":
        return Gcs(folder)
    try:
        return Azurite(folder, program())
    except NoNodeError as error:
        pytest.skip(str(error))


def served(kind: str, folders: pytest.TempPathFactory) -> Iterator[Cloud]:
    """Yield a running server."""
    server = make(kind, folders.mktemp(kind))
    try:
        server.start()
        yield server
    finally:
        server.dispose()


@pytest.fixture(scope="session")
def azure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    """Give the session's Azurite; tests use keys of their own and leave it running."""
    yield from served("azure", tmp_path_factory)


@pytest.fixture(scope="session")
def gcs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    """Give the session's server of Cloud Storage's API; the same."""
    yield from served("gcs", tmp_path_factory)


@pytest.fixture(scope="session", params=["azure", "gcs"])
def cloud(request: pytest.FixtureRequest) -> Cloud:
    """Give a test both."""
    found: Cloud = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def make_cloud(cloud: Cloud, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MakeCloud]:
    """Give a function that starts a server of the same kind for this test alone."""
    kind = "gcs" if isinstance(cloud, Gcs) else "azure"
    with ExitStack() as stack:

        def started() -> Cloud:
            server = make(kind, tmp_path_factory.mktemp(kind))
            stack.callback(server.dispose)
            server.start()
            return server

        yield started
