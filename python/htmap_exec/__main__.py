"""`python -m htmap_exec`: HTMap's command line tools, beside any click and any HTCondor."""

import sys

from .command_line import main

if __name__ == "__main__":
    sys.exit(main())
