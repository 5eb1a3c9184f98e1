"""The pytest fixtures of the faults."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from tests.faults.proxy import FaultProxy

MakeProxy = Callable[[str], FaultProxy]


@pytest.fixture
def make_proxy() -> Iterator[MakeProxy]:
    """Give a function that puts a proxy before a server: `(target) -> FaultProxy`."""
    with ExitStack() as stack:

        def make(target: str) -> FaultProxy:
            proxy = FaultProxy(target)
            stack.callback(proxy.close)
            return proxy

        yield make
