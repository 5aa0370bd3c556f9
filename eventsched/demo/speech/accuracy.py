"""The word accuracy of a recogniser.

Owns: the comparison of a hypothesis with the spoken text.
Must not: recognise speech (recogniser.py).
Read next: scoreboard.py.
"""

from __future__ import annotations


def word_accuracy(reference: str, hypothesis: str) -> float:
    """1 minus the word error rate: 1.0 if all words are right; extra words lower it."""
    expected, recognised = reference.split(), hypothesis.split()
    if not expected:
        return 0.0 if recognised else 1.0
    row = list(range(len(recognised) + 1))
    for i, word in enumerate(expected, 1):
        above, row = row, [i]
        for j, other in enumerate(recognised, 1):
            row.append(min(above[j] + 1, row[-1] + 1, above[j - 1] + (word != other)))
    return 1.0 - row[-1] / len(expected)
