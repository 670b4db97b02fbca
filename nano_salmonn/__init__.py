# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""How salmonn-nano is made: its data, its BEATs, its recipes and its report. See README.md in this folder."""
