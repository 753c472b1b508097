"""`python -m i21k`: the command line without the installed script."""

import sys

from i21k.cli import main

if __name__ == "__main__":
    sys.exit(main())
