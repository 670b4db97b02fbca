# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""Tags of a clip over time as a piano roll: a row for each tag, dark where its score is high."""

from pathlib import Path

import numpy as np

from beats_salmonn.tagging import Tags
from data_salmonn.extras import needs_extra


with needs_extra("eval"):
    import matplotlib

    matplotlib.use("Agg")  # no window
    import matplotlib.pyplot as plt


def plot_tags(tags: Tags, labels: list[int], path: str | Path) -> None:
    """Writes the scores of `labels` to the file `path`, the first label in the uppermost row."""
    figure, axis = plt.subplots(figsize=(9, 1.2 + 0.3 * max(len(labels), 1)))
    # overlapping windows: each is drawn up to where the next one begins
    edges = np.append(tags.starts, tags.ends[-1])
    rows = np.arange(len(labels) + 1)
    mesh = axis.pcolormesh(edges, rows, tags.scores[:, labels].T, vmin=0, vmax=1, cmap="Greys")
    axis.set_yticks(rows[:-1] + 0.5, [tags.labels[label] for label in labels], fontsize=8)
    axis.invert_yaxis()
    axis.set_xlim(0, tags.seconds)
    axis.set_xlabel("seconds")
    # names are shown as they are: a dollar sign would begin a formula
    axis.set_title(Path(tags.audio).name, fontsize=9, parse_math=False)
    figure.colorbar(mesh, ax=axis, label="probability")
    figure.tight_layout()
    # no date in the file: the same scores make the same bytes
    figure.savefig(path, dpi=110, metadata={"Software": None})
    plt.close(figure)
