"""Makes `python -m gantricks` the same as `gantricks`."""

import sys

from gantricks.cli import main

sys.exit(main())
