"""Build programs from the Go module proxy: the host's tools and what goes into the node image."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import artefacts
import progress
import shell
from layout import Layout
from versions import Versions

GO_FOLDER = Path(__file__).resolve().parent / "go"
STRIP = "-s -w"
PROVISIONER = "local-path-provisioner"
# Kubernetes on two busy cores takes seven minutes; a slow download comes on top.
BUILD_SECONDS = 3600.0
LONG_BUILDS = {"kb": "first run builds Kubernetes: 10-15 min", "helm": "about 3 min", "kwok": "about 2 min"}
KUBERNETES_NAMES = (
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kube-proxy",
    "kubelet",
    "kubeadm",
    "kubectl",
    "etcd",
)
KUBERNETES_PROGRAMS = ("kb", *KUBERNETES_NAMES)


@dataclass(frozen=True)
class Recipe:
    """How one artefact is built.

    Args:
        packages: import paths; with `version` they are installed, without it built inside `module`.
        module: a folder below go/ that pins everything in its go.mod.
        links: other names of the program, for a multi-call binary.
    """

    name: str
    packages: tuple[str, ...]
    version: str = ""
    module: str = ""
    ldflags: str = STRIP
    tags: str = ""
    cgo: bool = False
    links: tuple[str, ...] = ()


def kubernetes_ldflags(pins: Versions) -> str:
    """Return the linker flags that make every Kubernetes program tell its version."""
    package = "k8s.io/component-base/version"
    major, minor = pins.kubernetes_minor
    values = {"gitVersion": pins.kubernetes, "gitMajor": major, "gitMinor": minor}
    return " ".join([STRIP, *(f"-X {package}.{name}={value}" for name, value in values.items())])


def helm_ldflags(pins: Versions) -> str:
    """Return the linker flags that make helm tell its version in full."""
    return f"{STRIP} -X helm.sh/helm/v4/internal/version.version={pins.helm}"


def recipes(pins: Versions) -> dict[str, Recipe]:
    """Return every recipe by its name."""
    containerd = "github.com/containerd/containerd/v2/cmd"
    programs = ("containerd", "containerd-shim-runc-v2", "ctr")
    table = (
        Recipe("kb", (".",), module="kb", ldflags=kubernetes_ldflags(pins), links=KUBERNETES_NAMES),
        Recipe("kind", ("sigs.k8s.io/kind",), pins.kind),
        Recipe("helm", ("helm.sh/helm/v4/cmd/helm",), pins.helm, ldflags=helm_ldflags(pins)),
        Recipe("kwok", ("sigs.k8s.io/kwok/cmd/kwok",), pins.kwok),
        Recipe("containerd", tuple(f"{containerd}/{name}" for name in programs), pins.containerd),
        # Without seccomp the static pods never start: they ask for RuntimeDefault.
        Recipe("runc", ("github.com/opencontainers/runc",), pins.runc, tags="seccomp", cgo=True),
        Recipe("coredns", (".",), module="coredns"),
        Recipe("pause", (".",), module="pause"),
        Recipe("crictl", ("sigs.k8s.io/cri-tools/cmd/crictl",), module="crictl"),
        Recipe(PROVISIONER, (f"github.com/rancher/{PROVISIONER}",), module=PROVISIONER),
    )
    return {recipe.name: recipe for recipe in table}


def key(recipe: Recipe, go_folder: Path = GO_FOLDER) -> str:
    """Return the hash of everything that decides what the recipe builds."""
    sources = artefacts.tree_digest(go_folder / recipe.module) if recipe.module else ""
    return artefacts.digest(repr(sorted(asdict(recipe).items())), sources)


def command(recipe: Recipe, folder: Path) -> list[str]:
    """Return the Go command that builds the recipe into `folder`."""
    flags = ["-trimpath", "-buildvcs=false", "-ldflags", recipe.ldflags]
    if recipe.tags:
        flags += ["-tags", recipe.tags]
    if recipe.module:
        return ["go", "build", *flags, "-o", str(folder / recipe.name), *recipe.packages]
    return ["go", "install", *flags, *(f"{package}@{recipe.version}" for package in recipe.packages)]


def environment(recipe: Recipe, folder: Path) -> Mapping[str, str]:
    """Return the environment of the Go command."""
    return {"CGO_ENABLED": "1" if recipe.cgo else "0", "GOBIN": str(folder), "GOFLAGS": ""}


def has_go() -> bool:
    """Tell whether programs can be built."""
    return shutil.which("go") is not None


def _require_go() -> None:
    if not has_go():
        raise shell.MissingError("Go 1.26 or later must be on PATH: programs are built from Go modules")


def _build(recipe: Recipe, layout: Layout, folder: Path) -> None:
    _require_go()
    module = GO_FOLDER / recipe.module if recipe.module else layout.root
    note = LONG_BUILDS.get(recipe.name)
    with progress.step(f"build {recipe.name}" + (f" ({note})" if note else "")):
        log, env = layout.log(f"build-{recipe.name}"), environment(recipe, folder)
        shell.run(shell.Job(command(recipe, folder), log, BUILD_SECONDS, env=env, cwd=module))
    for link in recipe.links:
        (folder / link).symlink_to(recipe.name)


def folder(recipe: Recipe, layout: Layout) -> Path:
    """Return the folder which the recipe's programs are kept in."""
    return layout.artefacts / f"{recipe.name}-{key(recipe)}"


def is_built(recipe: Recipe, layout: Layout) -> bool:
    """Tell whether the recipe's programs are in the cache, complete."""
    return artefacts.is_intact(folder(recipe, layout))


def ensure(recipe: Recipe, layout: Layout) -> Path:
    """Return the folder that holds the recipe's programs, building them where needed."""
    lock = layout.lock(f"build-{recipe.name}")
    return artefacts.ensure(folder(recipe, layout), lock, lambda draft: _build(recipe, layout, draft))


def find(name: str, table: Mapping[str, Recipe]) -> Recipe:
    """Return the recipe that provides the program `name`.

    Raises:
        UserError: there is none.
    """
    for recipe in table.values():
        if name in {recipe.name, *recipe.links, *(package.rsplit("/", 1)[-1] for package in recipe.packages)}:
            return recipe
    known = ", ".join(sorted({*table, *KUBERNETES_NAMES}))
    raise shell.UserError(f"unknown program `{name}`; must be one of {known}")


def paths(names: Iterable[str], layout: Layout, pins: Versions) -> dict[str, str]:
    """Ensure the named programs and return their absolute paths."""
    table = recipes(pins)
    found = {name: find(name, table) for name in names}
    return {name: str(ensure(recipe, layout) / name) for name, recipe in found.items()}


def link_tools(layout: Layout, targets: Mapping[str, str]) -> None:
    """Point the PATH folder's names at the given programs."""
    layout.tools.mkdir(parents=True, exist_ok=True)
    for name, target in targets.items():
        draft = layout.tools / f".{name}.draft"
        draft.unlink(missing_ok=True)
        draft.symlink_to(target)
        draft.replace(layout.tools / name)
