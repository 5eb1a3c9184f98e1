"""Run as `python3 hack/kind VERB`."""

import signal
import sys

from cli import main

# As Ctrl-C does: the builds that were started end with this process.
signal.signal(signal.SIGTERM, signal.default_int_handler)
sys.exit(main())
