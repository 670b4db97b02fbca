# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
import numpy as np

from evaluation_salmonn.metrics import base, java


class MeteorScore(base.SummedMetric):
    """METEOR 1.5 for English, 0 to 100, by the original Java program; needs a Java runtime."""

    main = "meteor"
    higher_is_better = True
    unit = "points"
    citation = "Denkowski and Lavie 2014, Meteor Universal: Language Specific Translation Evaluation"

    def missing_parts(self):
        return java.missing_java()

    def _statistics(self, predictions, references):
        predicted, expected = java.tokenize_captions(predictions, references)
        # one line of numbers for each example; METEOR's corpus score is the score of their sum
        lines = [java.meteor_program()._stat(predicted[i][0], expected[i]) for i in predicted]
        return np.array([line.split() for line in lines], dtype=np.float64)

    def from_totals(self, totals):
        program = java.meteor_program().meteor_p
        program.stdin.write(("EVAL ||| " + " ".join(f"{total:.1f}" for total in totals) + "\n").encode())
        program.stdin.flush()
        program.stdout.readline()  # the score of the only segment, then that of all
        return {self.main: 100 * float(program.stdout.readline())}
