"""`python -m gantricks` is `gantricks`."""

import sys

from gantricks.cli import main

sys.exit(main())
