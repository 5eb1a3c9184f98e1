"""Run as `python3 hack/kind VERB`."""

import sys

from cli import main

sys.exit(main())
