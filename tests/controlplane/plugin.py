"""The harness's pytest fixtures; README.md lists them."""

import os
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import NoReturn, TypeVar

import pytest

from tests.controlplane import binaries, children, grants, kubeconfigs, processes, tenants, webhooks
from tests.controlplane.apirequests import ApiFailure
from tests.controlplane.clusterapi import ClusterApi
from tests.controlplane.controlplane import ControlPlane
from tests.controlplane.tenants import Tenant

# Which programs a test needs, by the fixtures it names.
_PROGRAMS = {
    "kb": {"control_plane", "make_control_plane", "cluster_api"},
    "helm": {"start_operator", "start_facade"},
}
_LOG_LINES = 30

MakeControlPlane = Callable[..., ControlPlane]
MakeTenant = Callable[..., Tenant]
StartOperator = Callable[..., processes.OperatorProcess]
StartFacade = Callable[..., processes.FacadeProcess]
ProcessT = TypeVar("ProcessT", bound=children.Child)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Build the programs before the first test: minutes that no test's timeout should count."""
    if session.config.option.collectonly:
        return
    asked = {name for item in session.items for name in getattr(item, "fixturenames", ())}
    capture = session.config.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled():
        for program in (program for program, fixtures in _PROGRAMS.items() if fixtures & asked):
            # A failure is told by the fixture of each test that needs the program.
            with suppress(binaries.NoProgramError, binaries.BuildError):
                binaries.program(program)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add the end of every process's log to the report of a failed test."""
    report = yield
    if report.failed:
        for child in children.known():
            tail = child.log_tail(_LOG_LINES)
            report.sections.append((f"{child.program.name} ({child.log_path})", tail))
    return report


@contextmanager
def _refusing() -> Iterator[None]:
    """Refuse the test where a program is missing, whoever asked for it."""
    try:
        yield
    except binaries.NoProgramError as error:
        refuse(str(error))


def refuse(reason: str) -> NoReturn:
    """Skip a test on a contributor's machine; fail it in CI, where nothing may be missing."""
    if os.environ.get("CI", "").lower() in {"1", "true"}:
        pytest.fail(f"{reason} (CI: never skipped)", pytrace=False)
    pytest.skip(reason)


def _started(root: Path, *, crds: bool) -> ControlPlane:
    with _refusing():
        binary = binaries.program("kb")
    cp = ControlPlane(binary, root)
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
    """Give an administrator's view of the control plane, or of the kind cluster of the current kubeconfig.

    The latter where the control plane's programs cannot be had.
    """
    try:
        binaries.program("kb")
    except binaries.NoProgramError as error:
        cluster = current_cluster(str(error), tmp_path_factory.mktemp("cluster"))
        cluster.apply_crds()
        yield cluster
        cluster.close()
        return
    yield request.getfixturevalue("control_plane")


def current_cluster(reason: str, folder: Path) -> ClusterApi:
    """Return the kind cluster of the current kubeconfig, or refuse the test for `reason`."""
    path = Path(os.environ.get("KUBECONFIG") or Path.home() / ".kube" / "config")
    if not path.is_file():
        refuse(f"{reason}, or a kind cluster in KUBECONFIG")
    try:
        access = kubeconfigs.read(path)
    except kubeconfigs.UnsupportedKubeconfigError as error:
        refuse(f"{reason}; {error}")
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
    """Give `(cp, env=None, *, grant=chart roles, kubeconfig=None, wait=True) -> OperatorProcess`."""
    with ExitStack() as stack:

        def start(
            cp: ControlPlane,
            env: Mapping[str, str] | None = None,
            *,
            grant: processes.Grant = grants.grant_chart_roles,
            kubeconfig: Path | None = None,
            wait: bool = True,
        ) -> processes.OperatorProcess:
            with _refusing():
                process = processes.operator(cp, processes.Setup(tmp_path, env or {}, grant, kubeconfig))
            stack.callback(_quietly, processes.release_lease, cp)
            return _run(stack, process, wait=wait)

        yield start


@pytest.fixture
def start_facade(tmp_path: Path) -> Iterator[StartFacade]:
    """Give `(cp, env=None, *, grant=chart roles, kubeconfig=None, register=True, wait=True)`.

    With `register` the API server asks this facade about every new Job until the test ends.
    """
    with ExitStack() as stack:

        def start(
            cp: ControlPlane,
            env: Mapping[str, str] | None = None,
            *,
            grant: processes.Grant = grants.grant_chart_roles,
            kubeconfig: Path | None = None,
            register: bool = True,
            wait: bool = True,
        ) -> processes.FacadeProcess:
            with _refusing():
                process = processes.facade(cp, processes.Setup(tmp_path, env or {}, grant, kubeconfig))
            if register:
                webhooks.register_webhook(cp, process.webhook_url, process.webhook_ca_pem)
                stack.callback(_quietly, webhooks.unregister_webhook, cp)
            return _run(stack, process, wait=wait)

        yield start


def _run(stack: ExitStack, process: ProcessT, *, wait: bool) -> ProcessT:
    stack.callback(process.dispose)
    process.launch()
    if wait:
        process.wait_ready()
    return process


def _quietly(undo: Callable[[ClusterApi], None], cp: ClusterApi) -> None:
    # A control plane of the test's own may be gone already.
    try:
        undo(cp)
    except ApiFailure as failure:
        if not failure.is_transient:
            raise
