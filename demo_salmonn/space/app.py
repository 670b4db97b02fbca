# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""The page as a Hugging Face Space. `make space SPACE=FOLDER` makes the folder of one, with this file at its root."""

import os

from demo_salmonn.limits import Limits
from demo_salmonn.web import launch_page, load_page


# Variables of the Space: SALMONN_MODEL is the Hub id of another model, SALMONN_TASKS what is offered, with spaces between.
MODEL = os.environ.get("SALMONN_MODEL") or None
TASKS = os.environ.get("SALMONN_TASKS", "").split() or None

# For a machine of two cores that strangers share.
LIMITS = Limits(upload_megabytes=10, clip_seconds=30, new_tokens=100, answer_seconds=60, waiting=20)


page = load_page(MODEL, tasks=TASKS, limits=LIMITS)

if __name__ == "__main__":
    launch_page(page, LIMITS)
