"""`python -m gateway.cli`, the same as `vmgate`."""

import sys

from gateway.cli import main

sys.exit(main())
