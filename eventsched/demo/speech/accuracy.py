"""How many of the words were recognised.

Owns: the word accuracy of a hypothesis. Never does: recognising.
"""

from __future__ import annotations


def word_accuracy(said: str, heard: str) -> float:
    """1 minus the word error rate: 1.0 is every word, and extra words count against it."""
    want, got = said.split(), heard.split()
    if not want:
        return 0.0 if got else 1.0
    row = list(range(len(got) + 1))
    for i, word in enumerate(want, 1):
        above, row = row, [i]
        for j, other in enumerate(got, 1):
            row.append(min(above[j] + 1, row[-1] + 1, above[j - 1] + (word != other)))
    return 1.0 - row[-1] / len(want)
