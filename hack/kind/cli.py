"""Read the command line."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path

import layout
import progress
import shell
import verbs
import versions
from appimage import DEFAULT_TAG

EPILOG = """environment:
  MANIFESTRY_CLUSTER  name of the cluster (default: manifestry)
  MANIFESTRY_CACHE    folder of everything that is kept (default: ~/.cache/manifestry)
  MANIFESTRY_NODE_IMAGE  node image in the place of kind's stock one, such as a mirror's copy of it"""

Action = Callable[[verbs.Context, argparse.Namespace], int]
ACTIONS: dict[str, tuple[str, Action]] = {
    "check": ("list everything that has to be installed by hand", lambda c, _: verbs.check(c)),
    "up": ("make sure the cluster is there", lambda c, a: verbs.up(c, a.use_current)),
    "down": ("delete the cluster and put the machine back", lambda c, a: verbs.down(c, a.purge)),
    "status": ("tell how things are; exit code 0 where the cluster is up", lambda c, _: verbs.status(c)),
    "env": ('print shell exports: eval "$(python3 hack/kind env)"', lambda c, _: verbs.env(c)),
    "build-image": ("build the repository's Dockerfile", lambda c, a: verbs.build_image(c, a.tag)),
    "load-image": ("load an image into the cluster", lambda c, a: verbs.load_image(c, a.tag)),
    "logs": ("export the logs of node, kubelet and pods", lambda c, _: verbs.logs(c)),
    "binaries": ("ensure host programs; print paths as JSON", lambda c, a: verbs.print_binaries(c, a.names)),
}


def parser() -> argparse.ArgumentParser:
    """Return the command line's grammar."""
    top = argparse.ArgumentParser(
        "hack/kind",
        description="The development cluster.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    actions = top.add_subparsers(dest="verb", required=True, metavar="VERB")
    options = {verb: actions.add_parser(verb, help=text) for verb, (text, _) in ACTIONS.items()}
    options["up"].add_argument("--use-current", action="store_true", help="take the current kubeconfig")
    options["down"].add_argument("--purge", action="store_true", help="remove the cache folder too")
    for verb in ("build-image", "load-image"):
        options[verb].add_argument("--tag", default=DEFAULT_TAG)
    options["binaries"].add_argument("names", nargs="*", default=["kb"], metavar="NAME", help="kb helm ...")
    return top


def main(arguments: list[str] | None = None) -> int:
    """Run one verb and return the exit code."""
    options = parser().parse_args(arguments)
    folder = layout.Layout(layout.cache_root(os.environ, Path.home()))
    pins = versions.chosen(versions.load(), os.environ)
    context = verbs.Context(folder, layout.cluster_name(os.environ), pins)
    try:
        return ACTIONS[options.verb][1](context, options)
    except shell.UserError as failure:
        progress.say(f"hack/kind {options.verb}: {failure}")
        return failure.exit_code
    except KeyboardInterrupt:
        progress.say(f"hack/kind {options.verb}: interrupted; run it again to go on")
        return 130
