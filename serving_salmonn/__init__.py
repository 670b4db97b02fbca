# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""What engines need to serve SALMONN, and corpora that are asked on them."""
