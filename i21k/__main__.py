"""`python -m i21k` is the command `i21k`."""

import sys

from i21k.cli import main

if __name__ == "__main__":
    sys.exit(main())
