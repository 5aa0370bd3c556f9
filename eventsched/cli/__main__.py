"""`python -m eventsched.cli`, the same as `eventsched`."""

import sys

from eventsched.cli.app import main

sys.exit(main())
