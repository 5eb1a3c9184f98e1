"""Make the modules of hack/kind importable: it is a folder to run, not a package."""

import sys
from pathlib import Path

# Appended: its plain module names must never win over anybody else's.
sys.path.append(str(Path(__file__).resolve().parents[3] / "hack" / "kind"))
