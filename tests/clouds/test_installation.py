"""The whole way (tests/cluster/store/test_remote.py): operator and facade as processes, on both clouds."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.clouds import promises
from tests.clouds.conftest import Cloud
from tests.cluster.store import test_remote as contract
from tests.controlplane.controlplane import ControlPlane
from tests.controlplane.tenants import Tenant
from tests.e2e.teams import Team

globals().update(promises.of(contract, "remote"))


@pytest.fixture
def remote(
    control_plane: ControlPlane,
    tenant: Tenant,
    cloud: Cloud,
    start_operator: Callable[..., Any],
    start_facade: Callable[..., Any],
) -> Team:
    start_operator(control_plane, env=cloud.settings())
    facade = start_facade(control_plane, env=cloud.settings())
    facade.wait_complete()
    return Team(tenant, control_plane, facade.base_url)
