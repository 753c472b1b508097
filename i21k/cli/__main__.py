"""`python -m i21k.cli` is `python -m i21k`."""

import sys

from i21k.cli import main

if __name__ == "__main__":
    sys.exit(main())
