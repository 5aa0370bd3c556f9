"""WAV headers: finished or not, of every form; rates; encodings that are not linear."""

from __future__ import annotations

import struct
import subprocess
import sys
from array import array
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eventsched.audio.wav import StreamDecoder, parse_wav, resample
from eventsched.errors import InvalidMessage
from tests.unit.wavs import LONG_ONES, ONES, PCM, Encoding, chunk, fmt_body, packed, wav_of

S16 = Encoding(PCM, 16)
FORMS = [b"RIFF", b"RIFX", b"RF64", b"BW64"]
VALUES = [(at * 37) % 9_000 - 4_500 for at in range(1_000)]


def samples_of(pcm: bytes) -> list[int]:
    samples = array("h")
    samples.frombytes(pcm)
    return samples.tolist()


def parts(form: bytes = b"RIFF") -> tuple[bytes, bytes]:
    """Format and data of a file that holds VALUES."""
    endian = ">" if form == b"RIFX" else "<"
    fmt = fmt_body(S16, 1, 16_000, endian=endian)
    return fmt, packed(S16, [[value] for value in VALUES], endian)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("data_size", [0, ONES])
@pytest.mark.parametrize("riff_size", [0, ONES, 36])
def test_sizes_that_were_never_written_are_read_to_the_end(
    form: bytes, data_size: int, riff_size: int
) -> None:
    fmt, data = parts(form)
    file = wav_of(fmt, data, form=form, riff_size=riff_size, data_size=data_size)
    assert samples_of(parse_wav(file)) == VALUES


@pytest.mark.parametrize("form", [b"RF64", b"BW64"])
@pytest.mark.parametrize("long_size", [0, LONG_ONES])
@pytest.mark.parametrize("data_size", [0, ONES])
def test_long_sizes_that_were_never_written_are_read_to_the_end(
    form: bytes, long_size: int, data_size: int
) -> None:
    fmt, data = parts()
    ds64 = (long_size, long_size)
    file = wav_of(fmt, data, form=form, riff_size=ONES, data_size=data_size, ds64=ds64)
    assert samples_of(parse_wav(file)) == VALUES


@pytest.mark.parametrize("form", [b"RF64", b"BW64"])
def test_the_long_size_of_a_finished_file_counts(form: bytes) -> None:
    fmt, data = parts()
    after = chunk(b"LIST", b"INFO of no interest")
    ds64 = (len(data) + len(after) + 80, len(data))
    file = wav_of(fmt, data, form=form, riff_size=ONES, data_size=ONES, ds64=ds64, after=after)
    assert samples_of(parse_wav(file)) == VALUES


def test_a_size_of_data_that_was_never_written_in_a_file_whose_size_was() -> None:
    fmt, data = parts()
    assert samples_of(parse_wav(wav_of(fmt, data, data_size=0))) == VALUES


def test_a_file_without_audio_that_ends_with_another_chunk_stays_without_audio() -> None:
    fmt, _ = parts()
    with pytest.raises(InvalidMessage, match="without audio"):
        parse_wav(wav_of(fmt, b"", after=chunk(b"LIST", b"INFO of no interest")))


@pytest.mark.parametrize("form", FORMS[:2])
def test_chunks_around_the_audio_are_no_audio(form: bytes) -> None:
    fmt, data = parts(form)
    endian = ">" if form == b"RIFX" else "<"
    other = chunk(b"LIST", b"of an odd length", endian=endian)
    file = wav_of(fmt, data, form=form, before=other, after=other)
    assert samples_of(parse_wav(file)) == VALUES


@settings(deadline=None)
@given(st.integers(0, 45))
def test_a_header_cut_short_is_refused_or_has_no_audio(length: int) -> None:
    fmt, data = parts()
    with pytest.raises(InvalidMessage, match=r"not a WAV|unreadable WAV|without audio"):
        parse_wav(wav_of(fmt, data)[:length])


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_in_the_place_of_chunks_are_one_clear_refusal_or_audio(body: bytes) -> None:
    file = b"RIFF" + struct.pack("<I", len(body) + 4) + b"WAVE" + body
    try:
        assert len(parse_wav(file)) % 2 == 0
    except InvalidMessage as refused:
        assert refused.fields["field"] == "wav"
        assert refused.fields["remedy"]


# --- rates ----------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [0, 1, 3_999, 384_001, ONES])
def test_rates_that_no_recorder_writes_are_refused(rate: int) -> None:
    fmt, data = fmt_body(S16, 1, rate), bytes(3_200)
    with pytest.raises(InvalidMessage) as caught:
        parse_wav(wav_of(fmt, data), name="talk.wav")
    assert caught.value.fields["field"] == "talk.wav"
    assert f"4000 to 384000 Hz expected, got {rate}" in caught.value.fields["limit"]
    assert caught.value.fields["remedy"]


@pytest.mark.parametrize(("source", "target"), [(3_999, 16_000), (16_000, 384_001), (0, 8_000)])
def test_resampling_refuses_the_same_rates(source: int, target: int) -> None:
    with pytest.raises(InvalidMessage, match="4000 to 384000 Hz expected"):
        resample(array("h", [1, 2, 3]), source, target)


@pytest.mark.parametrize("rate", [8_000, 44_100, 48_000, 383_999])
def test_resampling_keeps_a_constant_on_both_sides_of_zero(rate: int) -> None:
    for value in (12_000, -12_000):
        samples = resample(array("h", [value]) * rate, rate, 16_000)
        assert len(samples) == 16_000
        assert set(samples[2_000:-2_000]) == {value}


def test_resampling_in_pieces_is_the_same_as_at_once() -> None:
    file = wav_of(fmt_body(S16, 1, 44_100), packed(S16, [[value] for value in VALUES * 5]))
    decoder = StreamDecoder("stdin")
    pieces = [decoder.feed(file[at : at + 999]) for at in range(0, len(file), 999)]
    assert b"".join([*pieces, decoder.finish()]) == parse_wav(file)


MEASURED = r"""
import pathlib, re, sys
from eventsched.audio.wav import read_wav
size = len(read_wav(sys.argv[1]))
status = pathlib.Path("/proc/self/status").read_text()
print(size, int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) // 1024)
"""
"""Its own peak: that of getrusage begins with the size of the process that started this one."""


def test_a_long_file_is_resampled_in_little_memory(tmp_path: Path) -> None:
    """20 minutes of stereo at 44.1 kHz: 212 MB of file, 38 MB of audio at 16 kHz."""
    size = 20 * 60 * 44_100 * 4
    path = tmp_path / "long.wav"
    with path.open("wb") as file:
        file.write(wav_of(fmt_body(S16, 2, 44_100), b"", riff_size=36 + size, data_size=size))
        file.truncate(44 + size)
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, str(path)],
        capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip
    pcm_bytes, peak_mib = map(int, done.stdout.split())
    assert pcm_bytes == 20 * 60 * 32_000
    assert peak_mib < 150


# --- encodings that are not linear ----------------------------------------------------------


def fmt_of(tag: int, block: int, bits: int, extra: bytes, *, channels: int = 1) -> bytes:
    head = struct.pack("<HHIIHH", tag, channels, 16_000, 16_000, block, bits)
    return head + struct.pack("<H", len(extra)) + extra


@pytest.mark.parametrize("channels", [1, 2, 3, 6])
@pytest.mark.parametrize(
    ("tag", "codes", "values"),
    [
        (6, b"\xd5\x55\xaa\x2a", [8, -8, 32_256, -32_256]),
        (7, b"\xff\x80\x00\x8f", [0, 32_124, -32_124, 16_764]),
    ],
    ids=["A-law", "mu-law"],
)
def test_logarithmic_samples_are_decoded(
    tag: int, codes: bytes, values: list[int], channels: int
) -> None:
    data = b"".join(bytes([code]) * channels for code in codes)
    for form in (b"RIFF", b"RF64"):
        file = wav_of(fmt_of(tag, channels, 8, b"", channels=channels), data, form=form)
        assert samples_of(parse_wav(file)) == values


IMA = struct.pack("<hBB", 1_000, 0, 0) + bytes(32)
MS = struct.pack("<Bhhh", 0, 16, 1_000, 1_000) + bytes(32)
MS_EXTRA = struct.pack("<HH", 66, 7) + struct.pack(
    "<14h", 256, 0, 512, -256, 0, 0, 192, 64, 240, 0, 460, -208, 392, -232
)


@pytest.mark.parametrize(
    ("fmt", "block"),
    [
        (fmt_of(0x11, len(IMA), 4, struct.pack("<H", 65)), IMA),
        (fmt_of(2, len(MS), 4, MS_EXTRA), MS),
    ],
    ids=["IMA", "MS"],
)
def test_adpcm_is_decoded_block_by_block(fmt: bytes, block: bytes) -> None:
    file = wav_of(fmt, block * 3)
    decoder, pcm = StreamDecoder("stdin"), b""
    for at in range(0, len(file), 7):
        pcm += decoder.feed(file[at : at + 7])
    pcm += decoder.finish()
    assert pcm == parse_wav(file)
    assert len(pcm) // 2 >= 3 * 64
    assert set(samples_of(pcm)) == {1_000}


@pytest.mark.parametrize(
    ("fmt", "says"),
    [
        (fmt_of(0x55, 1, 0, b""), "encoding 0x0055"),
        (fmt_of(6, 4, 8, b""), "encoding 0x0006 with blocks of 4 bytes"),
        (fmt_of(1, 4, 24, b""), "24 bits a sample in 4 bytes for 1 channels"),
        (fmt_of(1, 0, 16, b""), "16 bits a sample in 0 bytes"),
        (fmt_of(3, 2, 16, b""), "16 bits a sample"),
        (fmt_of(1, 0, 16, b"", channels=0), "1 to 256 channels expected, got 0"),
        (fmt_of(0xFFFE, 2, 16, b""), "an extensible format of 18 bytes"),
        (fmt_of(0xFFFE, 2, 16, bytes(22)), "encoding 00000000"),
    ],
)
def test_encodings_that_cannot_be_decoded_are_refused_by_name(fmt: bytes, says: str) -> None:
    with pytest.raises(InvalidMessage, match="unreadable WAV") as caught:
        parse_wav(wav_of(fmt, bytes(64)))
    assert says in caught.value.fields["limit"]
