"""The harness's pytest fixtures; README.md lists them."""

import os
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import NoReturn, TypeVar

import pytest

from tests.controlplane import binaries, children, grants, kubeconfigs, processes, tenants
from tests.controlplane.clusterapi import ClusterApi
from tests.controlplane.controlplane import ControlPlane
from tests.controlplane.tenants import Tenant

_NEEDS_BINARY = {"control_plane", "make_control_plane", "cluster_api"}
_LOG_LINES = 30

MakeControlPlane = Callable[..., ControlPlane]
MakeTenant = Callable[..., Tenant]
StartOperator = Callable[..., processes.OperatorProcess]
StartFacade = Callable[..., processes.FacadeProcess]
ProcessT = TypeVar("ProcessT", bound=children.Child)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Build the binary before the first test: minutes that no test's timeout should count."""
    if session.config.option.collectonly:
        return
    wanted = any(_NEEDS_BINARY & set(getattr(item, "fixturenames", ())) for item in session.items)
    if not wanted:
        return
    capture = session.config.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled():
        try:
            binaries.kb()
        except (binaries.NoGoError, binaries.BuildError):
            # The fixture of each test that needs it says so.
            return


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add the end of every process's log to the report of a failed test."""
    report = yield
    if report.failed:
        for child in children.known():
            tail = child.log_tail(_LOG_LINES)
            report.sections.append((f"{child.program.name} ({child.log_path})", tail))
    return report


def _binary() -> Path:
    try:
        return binaries.kb()
    except binaries.NoGoError as error:
        refuse(str(error))


def refuse(reason: str) -> NoReturn:
    """Skip a test on a contributor's machine; fail it in CI, where nothing may be missing."""
    if os.environ.get("CI", "").lower() in {"1", "true"}:
        pytest.fail(f"{reason} (CI: never skipped)", pytrace=False)
    pytest.skip(reason)


def _started(root: Path, *, crds: bool) -> ControlPlane:
    cp = ControlPlane(_binary(), root)
    try:
        cp.start(crds=crds)
    except BaseException as error:
        error.add_note(cp.logs())
        cp.stop()
        raise
    return cp


@pytest.fixture(scope="session")
def control_plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """Give the session's own control plane with the CRDs installed; tests must leave it running."""
    cp = _started(tmp_path_factory.mktemp("control-plane"), crds=True)
    yield cp
    cp.stop()


@pytest.fixture
def make_control_plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MakeControlPlane]:
    """Give a function that starts a control plane for this test alone: `(crds=True) -> ControlPlane`."""
    with ExitStack() as stack:

        def make(*, crds: bool = True) -> ControlPlane:
            cp = _started(tmp_path_factory.mktemp("control-plane"), crds=crds)
            stack.callback(cp.stop)
            return cp

        yield make


@pytest.fixture(scope="session")
def cluster_api(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ClusterApi]:
    """Give an administrator's view of the control plane, or without Go of the current kind cluster."""
    try:
        binaries.kb()
    except binaries.NoGoError as error:
        cluster = _current_cluster(str(error), tmp_path_factory.mktemp("cluster"))
        cluster.apply_crds()
        yield cluster
        cluster.close()
        return
    yield request.getfixturevalue("control_plane")


def _current_cluster(reason: str, folder: Path) -> ClusterApi:
    path = Path(os.environ.get("KUBECONFIG") or Path.home() / ".kube" / "config")
    if not path.is_file():
        refuse(f"{reason}, or a kind cluster in KUBECONFIG")
    access = kubeconfigs.read(path)
    # CRDs are replaced and namespaces made: never in a cluster that somebody works with.
    if not access.context.startswith("kind-"):
        refuse(f"{reason}; the current context {access.context!r} is not a kind cluster's")
    return ClusterApi(path, kubectl_argv=binaries.kubectl_argv(), folder=folder)


@pytest.fixture
def make_tenant(request: pytest.FixtureRequest) -> Iterator[MakeTenant]:
    """Give a function that makes a tenant: `(name=None, cluster=None) -> Tenant`; gone after the test."""
    with ExitStack() as stack:

        def make(name: str | None = None, cluster: ClusterApi | None = None) -> Tenant:
            found = cluster or request.getfixturevalue("cluster_api")
            tenant = tenants.make(found, name)
            if cluster is None:
                # A cluster of the test's own goes as a whole, and may be dead by then.
                stack.callback(tenants.remove, found, tenant)
            return tenant

        yield make


@pytest.fixture
def tenant(make_tenant: MakeTenant) -> Tenant:
    """Give a tenant of this test alone."""
    return make_tenant()


@pytest.fixture
def start_operator(tmp_path: Path) -> Iterator[StartOperator]:
    """Give `(cp, env=None, *, grant=..., kubeconfig=None, wait=True) -> OperatorProcess`."""
    with ExitStack() as stack:

        def start(
            cp: ControlPlane,
            env: Mapping[str, str] | None = None,
            *,
            grant: processes.Grant = grants.grant_cluster_admin,
            kubeconfig: Path | None = None,
            wait: bool = True,
        ) -> processes.OperatorProcess:
            setup = processes.Setup(tmp_path, env or {}, grant, kubeconfig)
            return _run(stack, processes.operator(cp, setup), wait=wait)

        yield start


@pytest.fixture
def start_facade(tmp_path: Path) -> Iterator[StartFacade]:
    """Give `(cp, env=None, *, grant=..., kubeconfig=None, wait=True) -> FacadeProcess`."""
    with ExitStack() as stack:

        def start(
            cp: ControlPlane,
            env: Mapping[str, str] | None = None,
            *,
            grant: processes.Grant = grants.grant_cluster_admin,
            kubeconfig: Path | None = None,
            wait: bool = True,
        ) -> processes.FacadeProcess:
            setup = processes.Setup(tmp_path, env or {}, grant, kubeconfig)
            return _run(stack, processes.facade(cp, setup), wait=wait)

        yield start


def _run(stack: ExitStack, process: ProcessT, *, wait: bool) -> ProcessT:
    stack.callback(process.dispose)
    process.launch()
    if wait:
        process.wait_ready()
    return process
