"""Whether the sources in some folders compile, warnings being errors; for a Python that has no packages."""

import sys
from pathlib import Path

for folder in sys.argv[1:]:
    for path in Path(folder).rglob("*.py"):
        compile(path.read_bytes(), str(path), "exec")
