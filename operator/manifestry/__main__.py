"""Start the operator: `python -m manifestry`; or do one thing: `... store show`, `... retained tenants`."""

import argparse
import asyncio
import logging
import sys

from manifestry import settings
from manifestry.adapters.kube import apierrors, kubeconfigs
from manifestry.adapters.store.contract import ports
from manifestry.adapters.telemetry import logs
from manifestry.handlers import process
from manifestry.handlers.commands import retained
from manifestry.handlers.commands import store as commands_store

_logger = logging.getLogger(__name__)

CONFIGURATION_EXIT_CODE = 2
REFUSED_EXIT_CODE = 1


def main() -> int:
    """Run the operator, or a command, with what the environment says; return the exit code."""
    is_retained = sys.argv[1:2] == [retained.NAME]
    asked = retained.parse(sys.argv[2:]) if is_retained else commands_store.parse(sys.argv[1:])
    logs.configure("info")
    try:
        configuration = process.Configuration.from_mapping(settings.environment())
        if is_retained:
            return asyncio.run(retained.run(asked, configuration, sys.stdout))
        logs.configure(configuration.operator.log_level)
        if asked.area is not None:
            return _command(configuration, asked)
        return asyncio.run(process.run(configuration))
    except (settings.SettingsError, kubeconfigs.CredentialsError) as error:
        _logger.error("configuration not usable", extra={"error": str(error)})  # noqa: TRY400 - no traceback helps
        return CONFIGURATION_EXIT_CODE


def _command(configuration: process.Configuration, asked: argparse.Namespace) -> int:
    try:
        answer = asyncio.run(commands_store.run(configuration, asked))
    except (commands_store.CommandError, ports.StoreError, apierrors.ApiError) as error:
        print(f"refused: {error}", file=sys.stderr)
        return REFUSED_EXIT_CODE
    print(commands_store.render(answer))
    return 0


if __name__ == "__main__":
    sys.exit(main())
