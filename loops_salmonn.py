# Copyright 2026 The SALMONN for Transformers authors.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.

"""Answers that say the same words over and over until they are cut off, as greedy decoding sometimes ends."""

from collections.abc import Sequence


LONGEST_PERIOD = 16  # tokens of what is said over and over
LEAST_TIMES = 4
LEAST_TOKENS = 24  # of all its repetitions: people say "no, no, no, no" too


def find_loop(token_ids: Sequence[int]) -> int | None:
    """
    Where an answer begins to repeat itself until its end: the index behind the first time that the repeated tokens are
    said, so that `token_ids[:index]` says them once. `None` if it does not.

    The answer is without padding, and one that ended by itself is none: look at those that were cut off.
    """
    for period in range(1, LONGEST_PERIOD + 1):
        start = len(token_ids) - period
        while start > 0 and token_ids[start - 1] == token_ids[start - 1 + period]:
            start -= 1
        repeated = len(token_ids) - start
        if start >= 0 and repeated >= max(LEAST_TIMES * period, LEAST_TOKENS):
            return start + period
    return None
