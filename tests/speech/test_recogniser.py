"""The recogniser hears what the bundled speakers say."""

from __future__ import annotations

import random
import sys

import pytest

from eventsched.demo.speech.accuracy import word_accuracy
from eventsched.demo.speech.recogniser import (
    Recogniser,
    SpeechNotInstalled,
    require_recogniser,
)
from eventsched.demo.speech.samples import Sample, samples

SILENCE = bytes(280 * 32)
"""What travels with a job as padding: 280 ms."""
ACCURACY_MIN = 0.8


@pytest.fixture(scope="module")
def recogniser() -> Recogniser:
    return Recogniser()


@pytest.fixture(scope="module")
def recognised(recogniser: Recogniser) -> dict[str, list[str]]:
    """Recognise every utterance once, speaker after speaker; return the texts by speaker."""
    return {
        str(sample.speaker): [recogniser.recognise(pcm + SILENCE) for pcm in sample.spoken()]
        for sample in samples()
    }


@pytest.mark.parametrize("sample", samples(), ids=lambda sample: str(sample.speaker))
def test_words_of_each_speaker_are_recognised(
    recognised: dict[str, list[str]], sample: Sample
) -> None:
    texts = recognised[str(sample.speaker)]
    for utterance, text in zip(sample.utterances, texts, strict=True):
        assert word_accuracy(utterance.text, text) >= ACCURACY_MIN, text


def test_order_of_speakers_does_not_matter(
    recogniser: Recogniser, recognised: dict[str, list[str]]
) -> None:
    """One decoder serves all speakers; an earlier utterance does not change a later one."""
    for sample in reversed(samples()):
        spoken, texts = sample.spoken()[:2], recognised[str(sample.speaker)][:2]
        backwards = [recogniser.recognise(pcm + SILENCE) for pcm in reversed(spoken)]
        assert backwards[::-1] == texts


@pytest.mark.parametrize("pcm", [b"", bytes(32_000)], ids=["nothing", "a second of silence"])
def test_silence_has_no_words(recogniser: Recogniser, pcm: bytes) -> None:
    recogniser.recognise(samples()[0].spoken()[0])
    assert recogniser.recognise(pcm) == ""


def test_noise_does_not_spoil_the_next_utterance(
    recogniser: Recogniser, recognised: dict[str, list[str]]
) -> None:
    sample = samples()[0]
    recogniser.recognise(random.Random(7).randbytes(64_000))
    text = recogniser.recognise(sample.spoken()[0] + SILENCE)
    assert text == recognised[str(sample.speaker)][0]


def test_missing_recogniser_is_one_line_that_names_the_extra(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "pocketsphinx", None)
    with pytest.raises(SpeechNotInstalled) as error:
        require_recogniser()
    assert "pip install 'eventsched[speech]'" in str(error.value)
    assert "\n" not in str(error.value)


def test_recordings_end_with_their_last_utterance() -> None:
    for sample in samples():
        assert sample.utterances[-1].to_ms * 32 == len(sample.pcm())


@pytest.mark.parametrize(
    ("spoken", "recognised", "accuracy"),
    [
        ("a b c d", "a b c d", 1.0),
        ("a b c d", "a x c d", 0.75),
        ("a b c d", "a c d", 0.75),
        ("a b c d", "a b c d e", 0.75),
        ("a b", "", 0.0),
        ("", "", 1.0),
        ("", "a", 0.0),
    ],
)
def test_word_accuracy_counts_substituted_lost_and_extra_words(
    spoken: str, recognised: str, accuracy: float
) -> None:
    assert word_accuracy(spoken, recognised) == accuracy
