"""`python -m opendata_log.bench`."""

import sys

from opendata_log.bench.program import main

if __name__ == "__main__":
    sys.exit(main())
