"""Choose the node image: the one that is asked for, else kind's stock one, else one that is built here."""

from __future__ import annotations

import host
import nodeimage
import progress
import shell
from engine import Engine
from layout import Layout
from versions import Versions

PULL_SECONDS = 900.0
NO_CGROUP_V1 = "this machine has cgroup v1, on which kind's stock node image does not boot"


def is_present(image: str, engine: Engine) -> bool:
    """Tell whether the engine has the image."""
    return engine.ask("image", "inspect", image).ok


def is_own(image: str) -> bool:
    """Tell whether an image was built by this tool, fitted to the machine."""
    return image.startswith(f"{nodeimage.REPOSITORY}:")


def pull(image: str, engine: Engine, layout: Layout) -> None:
    """Pull the image.

    Raises:
        UserError: it cannot be pulled; carries what the engine said.
    """
    with progress.step(f"pull {image.partition('@')[0]}"):
        shell.run(shell.Job(["docker", "pull", image], layout.log("pull"), PULL_SECONDS, env=engine.env))


def can_pull(image: str, engine: Engine, layout: Layout) -> bool:
    """Tell whether the image could be pulled, and pull it."""
    try:
        pull(image, engine, layout)
    except shell.UserError:
        progress.say(f"   going on without a registry: {shell.tail(layout.log('pull'), 1)}")
        return False
    return True


def _given(image: str, engine: Engine, layout: Layout) -> str:
    if not is_present(image, engine):
        pull(image, engine, layout)
    return image


def _missing_root(stock_boots: bool) -> shell.MissingError:
    reason = "no registry can be reached" if stock_boots else NO_CGROUP_V1
    return shell.MissingError(f"must be root to build a node image: {reason}")


def ensure(engine: Engine, layout: Layout, pins: Versions) -> str:
    """Return the name of a node image that the engine has.

    Raises:
        UserError: the image that `MANIFESTRY_NODE_IMAGE` names cannot be pulled, or none can be built.
    """
    stock, own = pins.kind_node_image, nodeimage.own_tag(pins)
    if pins.node_image_is_given:
        return _given(stock, engine, layout)
    stock_boots = engine.cgroup_v2
    for image in (stock, own) if stock_boots else (own,):
        if is_present(image, engine):
            return image
    if stock_boots and can_pull(stock, engine, layout):
        return stock
    if not host.is_root():
        raise _missing_root(stock_boots)
    nodeimage.build(own, engine, layout, pins)
    return own
