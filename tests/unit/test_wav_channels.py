"""The mono mix of 1 to 16 channels is their mean, exactly, in every sample format."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eventsched.audio.wav import WavDecoder, parse_wav
from tests.unit.wavs import ENCODINGS, FLOAT, PCM, Encoding, fmt_body, packed, wav_of

CHANNELS = range(1, 17)


class File(NamedTuple):
    """A WAV file and what it was made of."""

    encoding: Encoding
    frames: list[list[float]]
    data: bytes


def file_of(
    encoding: Encoding,
    frames: list[list[float]],
    *,
    form: bytes = b"RIFF",
    extensible: bool = False,
) -> File:
    endian = ">" if form == b"RIFX" else "<"
    fmt = fmt_body(encoding, len(frames[0]), 16_000, endian=endian, extensible=extensible)
    return File(encoding, frames, wav_of(fmt, packed(encoding, frames, endian), form=form))


def sample_values(encoding: Encoding) -> st.SearchStrategy[float]:
    if encoding.tag == FLOAT:  # steps in which sums are exact, and a little beyond full scale
        return st.integers(-(2**20) - 99, 2**20 + 99).map(lambda step: step / 2**20)
    half = 2 ** (encoding.bits - 1)
    bits_exact = min(half, 2**40)  # beyond, a sum of 16 is no longer exact in 53 bits
    near_zero = st.integers(-3, 3)
    return near_zero | st.integers(-bits_exact, bits_exact - 1)


@st.composite
def files(draw: st.DrawFn) -> File:
    encoding = draw(st.sampled_from(ENCODINGS))
    channels = draw(st.sampled_from(CHANNELS))
    frame = st.lists(sample_values(encoding), min_size=channels, max_size=channels)
    frames = draw(st.lists(frame, min_size=1, max_size=12))
    form = draw(st.sampled_from([b"RIFF", b"RIFX"]))
    return file_of(encoding, frames, form=form, extensible=draw(st.booleans()))


def expected(encoding: Encoding, frames: Sequence[Sequence[float]]) -> list[int]:
    """The mean of each frame, to the nearest whole number, halves to the even one."""
    means = [sum(map(encoding.in_pcm16, frame), Fraction()) / len(frame) for frame in frames]
    return [max(-32_768, min(32_767, round(mean))) for mean in means]


def samples_of(pcm: bytes) -> list[int]:
    samples = array("h")
    samples.frombytes(pcm)
    return samples.tolist()


@settings(deadline=None)
@given(files())
def test_the_mix_is_the_mean_of_the_channels(file: File) -> None:
    assert samples_of(parse_wav(file.data)) == expected(file.encoding, file.frames)


@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize("encoding", ENCODINGS, ids=str)
def test_equal_channels_come_out_as_they_are(encoding: Encoding, channels: int) -> None:
    step = 2.0**-15 if encoding.tag == FLOAT else 2 ** max(0, encoding.bits - 16)
    values = [0, 1, -1, 100, -100] if encoding.bits == 8 else [0, 1, -1, 1_000, -1_000, -32_768]
    frames = [[value * step] * channels for value in values]
    scale = 256 if encoding.bits == 8 else 1
    assert samples_of(parse_wav(file_of(encoding, frames).data)) == [v * scale for v in values]


@settings(deadline=None)
@given(st.lists(st.integers(-32_767, 32_767), min_size=1, max_size=16))
def test_below_zero_the_mix_is_the_mirror_of_above(frame: list[int]) -> None:
    mirrored: list[list[float]] = [[float(v) for v in frame], [float(-v) for v in frame]]
    above, below = samples_of(parse_wav(file_of(Encoding(PCM, 16), mirrored).data))
    assert below == -above


@settings(deadline=None)
@given(files(), st.lists(st.integers(1, 40), min_size=1, max_size=40))
def test_pieces_of_any_size_give_the_same_audio(file: File, sizes: list[int]) -> None:
    decoder, at, pcm = WavDecoder(), 0, b""
    for size in sizes:
        pcm += decoder.feed(file.data[at : at + size])
        at += size
    pcm += decoder.feed(file.data[at:]) + decoder.finish()
    assert pcm == parse_wav(file.data)


@pytest.mark.parametrize("bits", [32, 64])
def test_floats_that_are_no_numbers_are_silence_or_full_scale(bits: int) -> None:
    inf = float("inf")
    huge = 3e38 if bits == 32 else 1e308
    frames: list[list[float]] = [[float("nan")], [inf], [-inf], [huge], [-huge], [0.5]]
    data = file_of(Encoding(FLOAT, bits), frames).data
    assert samples_of(parse_wav(data)) == [0, 32_767, -32_768, 32_767, -32_768, 16_384]
