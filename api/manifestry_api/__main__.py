"""`python -m manifestry_api`: the facade as a process."""

import asyncio
import sys

from manifestry import settings
from manifestry_api import loglines, server


def main() -> int:
    """Read the environment and serve; 2 when the settings are not valid."""
    try:
        config = server.Config.from_mapping(settings.environment())
        loglines.configure(config.api.log_level)
        asyncio.run(server.serve(config))
    except settings.SettingsError as error:  # a key or an address may show as malformed only when it is used
        sys.stderr.write(f"{error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
