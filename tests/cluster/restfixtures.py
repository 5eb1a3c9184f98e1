"""What most tests of the REST door begin with; a module asks for it by `pytest_plugins`."""

from collections.abc import Iterator

import pytest

from tests.cluster import rest
from tests.controlplane.controlplane import ControlPlane
from tests.controlplane.tenants import Tenant
from tests.e2e.teams import Team


@pytest.fixture(scope="module")
def product(
    control_plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[rest.Installation]:
    """Give an operator and a facade that run for the module's tests."""
    with rest.installed(control_plane, tmp_path_factory.mktemp("product")) as found:
        yield found


@pytest.fixture
def team(product: rest.Installation, tenant: Tenant) -> Team:
    """Give a tenant as a maker of callers."""
    return product.team(tenant)


@pytest.fixture
def working_team(product: rest.Installation, tenant: Tenant) -> Team:
    """Give a tenant that may submit jobs by now."""
    found = product.team(tenant)
    found.ready(rest.JOB_TYPE)
    return found
