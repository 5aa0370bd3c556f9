"""Any common WAV comes out as mono PCM16 at 16 kHz; what is no WAV is refused."""

from __future__ import annotations

import math
import struct
from array import array
from collections.abc import Callable
from pathlib import Path

import pytest

from eventsched.audio.wav import parse_wav, read_wav, resample
from eventsched.errors import InvalidMessage

PCM, FLOAT, A_LAW, EXTENSIBLE = 1, 3, 6, 0xFFFE
AMPLITUDE = 16_000


def sine(hz: float, rate: int, seconds: float = 0.5) -> list[float]:
    return [math.sin(2 * math.pi * hz * k / rate) * 0.5 for k in range(int(rate * seconds))]


def wav(samples: list[float], rate: int, bits: int, *, channels: int = 1, tag: int = PCM) -> bytes:
    """A WAV file: RIFF, `fmt `, a chunk to be passed over, `data`."""
    kinds: dict[tuple[int, int], Callable[[float], bytes]] = {
        (PCM, 8): lambda x: struct.pack("<B", round(x * 127) + 128),
        (PCM, 16): lambda x: struct.pack("<h", round(x * 32_767)),
        (PCM, 24): lambda x: struct.pack("<i", round(x * 8_388_607))[:3],
        (PCM, 32): lambda x: struct.pack("<i", round(x * 2_147_483_647)),
        (FLOAT, 32): lambda x: struct.pack("<f", x),
        (FLOAT, 64): lambda x: struct.pack("<d", x),
    }
    pack = kinds[FLOAT if tag == FLOAT else PCM, bits]
    data = b"".join(pack(x) * channels for x in samples)
    frame = bits // 8 * channels
    fmt = struct.pack("<HHIIHH", tag, channels, rate, rate * frame, frame, bits)
    if tag == EXTENSIBLE:
        guid = struct.pack("<H", PCM) + bytes.fromhex("000000001000800000aa00389b71")
        fmt += struct.pack("<HHI", 22, bits, 0) + guid
    chunks = b"".join(
        name + struct.pack("<I", len(body)) + body + bytes(len(body) % 2)
        for name, body in ((b"fmt ", fmt), (b"LIST", b"INFOx"), (b"data", data))
    )
    return b"RIFF" + struct.pack("<I", len(chunks) + 4) + b"WAVE" + chunks


def level_db(samples: array[int]) -> float:
    """Of the middle, against a sine of AMPLITUDE."""
    middle = samples[400:-400]
    power = sum(value * value for value in middle) / len(middle)
    return 10 * math.log10(power / (AMPLITUDE**2 / 2) + 1e-12)


def decode_event(data: bytes) -> array[int]:
    samples = array("h")
    samples.frombytes(parse_wav(data))
    return samples


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize(
    ("tag", "bits"),
    [(PCM, 8), (PCM, 16), (PCM, 24), (PCM, 32), (FLOAT, 32), (FLOAT, 64), (EXTENSIBLE, 24)],
)
def test_each_common_encoding_is_read(tag: int, bits: int, channels: int) -> None:
    wanted = sine(440, 16_000)
    samples = decode_event(wav(wanted, 16_000, bits, channels=channels, tag=tag))
    assert len(samples) == len(wanted)
    off = max(abs(a - b * 32_767) for a, b in zip(samples, wanted, strict=True))
    assert off <= (260 if bits == 8 else 3)


@pytest.mark.parametrize(
    "rate", [4_000, 8_000, 11_025, 22_050, 32_000, 44_100, 48_000, 96_000, 192_000, 384_000]
)
def test_each_common_rate_becomes_16_khz(rate: int) -> None:
    samples = decode_event(wav(sine(440, rate), rate, 16))
    assert len(samples) == round(rate // 2 * 16_000 / rate)
    wanted = sine(440, 16_000)
    pairs = list(zip(samples, wanted, strict=False))[400:-400]
    assert max(abs(a - b * 32_767) for a, b in pairs) <= 4


@pytest.mark.parametrize("hz", [9_000, 10_000, 15_000])
def test_what_16_khz_cannot_show_is_left_out(hz: int) -> None:
    tone = array("h", [round(x * 2 * AMPLITUDE) for x in sine(hz, 48_000)])
    assert level_db(resample(tone, 48_000, 16_000)) < -60


@pytest.mark.parametrize("hz", [300, 1_000, 3_500, 6_000])
def test_what_speech_needs_passes_unchanged(hz: int) -> None:
    tone = array("h", [round(x * 2 * AMPLITUDE) for x in sine(hz, 48_000)])
    assert abs(level_db(resample(tone, 48_000, 16_000))) < 0.5


def test_two_channels_are_mixed() -> None:
    left_only = wav(sine(440, 16_000), 16_000, 16, channels=2)
    body = bytearray(left_only)
    for at in range(left_only.index(b"data") + 10, len(body), 4):
        body[at : at + 2] = b"\0\0"
    samples = decode_event(bytes(body))
    assert level_db(samples) == pytest.approx(-6, abs=0.5)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "not a WAV"),
        (b"ID3\x04" + bytes(200), "MP3, not a WAV"),
        (b"OggS" + bytes(200), "Ogg, not a WAV"),
        (bytes(200), "not a WAV"),
        (b"RIFF\x10\0\0\0AVI " + bytes(40), r"RIFF \(AVI\), not a WAV"),
        (b"RIFF\x04\0\0\0WAVE", "unreadable WAV"),
        (wav([], 16_000, 16), "without audio"),
    ],
)
def test_what_is_no_wav_is_refused(data: bytes, says: str, tmp_path: Path) -> None:
    path = tmp_path / "speech.wav"
    path.write_bytes(data)
    with pytest.raises(InvalidMessage, match=says) as caught:
        read_wav(path)
    assert caught.value.fields["field"] == str(path)
    assert caught.value.fields["remedy"]


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidMessage, match="No such file"):
        read_wav(tmp_path / "none.wav")


def test_a_file_cut_short_gives_what_is_there() -> None:
    whole = wav(sine(440, 16_000), 16_000, 16)
    assert len(decode_event(whole[: len(whole) // 2])) == pytest.approx(4_000, abs=40)
