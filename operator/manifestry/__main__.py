"""Start the operator: `python -m manifestry`."""

import asyncio
import logging
import sys

from manifestry import settings
from manifestry.adapters.kube import kubeconfigs
from manifestry.adapters.telemetry import logs
from manifestry.handlers import process

_logger = logging.getLogger(__name__)

CONFIGURATION_EXIT_CODE = 2


def main() -> int:
    """Run the operator with what the environment says; return the exit code."""
    logs.configure("info")
    try:
        configuration = process.Configuration.from_mapping(settings.environment())
        logs.configure(configuration.operator.log_level)
        return asyncio.run(process.run(configuration))
    except (settings.SettingsError, kubeconfigs.CredentialsError) as error:
        _logger.error("configuration not usable", extra={"error": str(error)})  # noqa: TRY400 - no traceback helps
        return CONFIGURATION_EXIT_CODE


if __name__ == "__main__":
    sys.exit(main())
