"""`python -m benchmarks.micro NAME` runs one benchmark."""

import sys

from benchmarks.micro.program import main

sys.exit(main())
