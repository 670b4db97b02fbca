# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
