"""The facade in this process."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.unit.api.routes import site as sites


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[sites.Site]:
    """Give a running facade with a cluster in memory and a store on disk."""
    async with sites.running(tmp_path, wait_seconds=0.05) as found:
        yield found
