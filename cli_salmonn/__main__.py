# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""`python -m cli_salmonn`, for where the `salmonn` command is not installed."""

import sys

from cli_salmonn.main import main


if __name__ == "__main__":
    sys.exit(main())
