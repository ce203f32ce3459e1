"""``python -m influence_core.cli``: the command ``influence``."""

import sys

from influence_core.cli import main

if __name__ == "__main__":
    sys.exit(main())
