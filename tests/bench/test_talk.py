"""Random speech: a seed always gives the same speaker, in chunks of 100 ms."""

from __future__ import annotations

from itertools import islice, pairwise
from random import Random

from benchmarks.micro.talk import chunks_of, stretches_in
from eventsched.loadtest.rttm import SAMPLES


def test_stretches_have_the_silence_and_the_speech_of_each_speaker() -> None:
    stretches = stretches_in(SAMPLES)
    assert (1_400, 350) in stretches  # standup: mia is silent from 1.70 s to 3.10 s
    assert all(silence_ms >= 0 and speech_ms > 0 for silence_ms, speech_ms in stretches)


def test_the_same_seed_gives_the_same_speaker() -> None:
    stretches = stretches_in(SAMPLES)
    first, second, other = (list(islice(chunks_of(stretches, Random(s)), 50)) for s in (1, 1, 2))
    assert first == second
    assert first != other


def test_chunks_come_every_100_ms_until_the_last_of_a_stretch() -> None:
    chunks = list(islice(chunks_of([(500, 320)], Random(7)), 40))
    assert chunks[0][0] > 0
    for (at_ms, end_of_utterance), (next_ms, _) in pairwise(chunks):
        assert next_ms - at_ms == (600 if end_of_utterance else 100)
