"""`python -m eventsched.cli` runs the program `eventsched`."""

import sys

from eventsched.cli import main

sys.exit(main())
