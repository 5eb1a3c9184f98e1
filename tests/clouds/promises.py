"""Take over the tests in which a module of tests/component says what a store promises."""

import inspect
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any


def of(
    module: ModuleType, fixture: str, but: Mapping[str, str] | None = None
) -> dict[str, Callable[..., Any]]:
    """Return the tests of a module that use a fixture; their new module gives them a fixture of its own.

    Args:
        module: has the tests.
        fixture: its name.
        but: those that are left out, each with the reason.
    """
    tests = {
        name: test
        for name, test in vars(module).items()
        if name.startswith("test_") and fixture in inspect.signature(test).parameters
    }
    assert tests, f"{module.__name__} has no test with `{fixture}`"
    for name in but or {}:
        assert hasattr(module, name), f"{module.__name__} has no {name} to leave out"
        tests.pop(name, None)
    return tests
