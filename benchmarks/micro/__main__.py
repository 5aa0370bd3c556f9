"""`python -m benchmarks.micro NAME`: measure one part."""

import sys

from benchmarks.micro.program import main

sys.exit(main())
