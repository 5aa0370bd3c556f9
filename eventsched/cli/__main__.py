"""`python -m eventsched.cli`, the same as `eventsched`."""

import sys

from eventsched.cli import main

sys.exit(main())
