"""Containers are recognised by their first bytes; raw PCM16 is never taken for one."""

from __future__ import annotations

import struct
from array import array

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eventsched.audio.containers import HEAD_BYTES, container_of, is_wav
from eventsched.audio.wav import StreamDecoder, parse_wav
from eventsched.errors import InvalidMessage
from tests.unit.wavs import PCM, Encoding, fmt_body, packed, wav_of


def frames(header: bytes, size: int, count: int) -> bytes:
    """So many frames of MPEG audio or AAC, each with that header and of that size."""
    return (header + bytes(size - len(header))) * count


ADTS_417 = bytes([0xFF, 0xF1, 0x50, 0x80, 417 >> 3, (417 & 7) << 5 | 0x1F, 0xFC])
FOREIGN = {
    "Ogg": b"OggS\0\2" + bytes(60),
    "FLAC": b"fLaC\0\0\0\x22" + bytes(60),
    "WebM or Matroska": b"\x1a\x45\xdf\xa3\x9f\x42\x86\x81" + bytes(60),
    "MP4": b"\0\0\0\x20ftypM4A " + bytes(60),
    "AIFF": b"FORM\0\0\1\0AIFFCOMM" + bytes(60),
    "CAF": b"caff\0\1\0\0" + bytes(60),
    "AU": b".snd\0\0\0\x18" + bytes(60),
    "AMR": b"#!AMR\n" + bytes(60),
    "Wave64": b"riff\x2e\x91\xcf\x11\xa5\xd6\x28\xdb" + bytes(60),
    "ASF": b"\x30\x26\xb2\x75\x8e\x66\xcf\x11" + bytes(60),
    "RIFF (AVI)": b"RIFF\0\1\0\0AVI LIST" + bytes(60),
    "MP3": b"ID3\4\0\0\0\0\1\x7f" + bytes(60),
    "AAC": frames(ADTS_417, 417, 3),
}
MPEG = {
    "1 layer III, 128 kbit/s, 44.1 kHz": (b"\xff\xfb\x90\x00", 417),
    "1 layer III, padded": (b"\xff\xfb\x92\x00", 418),
    "1 layer III, 320 kbit/s, 32 kHz": (b"\xff\xfa\xe8\x00", 1_440),
    "1 layer II, 384 kbit/s, 32 kHz": (b"\xff\xfd\xe8\x00", 1_728),
    "1 layer I, 448 kbit/s, 32 kHz": (b"\xff\xff\xe8\x00", 672),
    "2 layer III, 64 kbit/s, 22.05 kHz": (b"\xff\xf3\x80\x00", 208),
    "2.5 layer III, 8 kbit/s, 8 kHz": (b"\xff\xe3\x18\x00", 72),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_each_container_is_named(name: str) -> None:
    assert container_of(FOREIGN[name]) == name


@pytest.mark.parametrize("name", MPEG)
def test_mpeg_audio_is_known_by_frames_that_follow_each_other(name: str) -> None:
    header, size = MPEG[name]
    whole = frames(header, size, 60)[:HEAD_BYTES]
    if size * 2 <= HEAD_BYTES:
        assert container_of(whole) == "MP3"
    assert container_of(whole[: size + 3]) is None, "one header alone may be PCM16"
    assert container_of(frames(header, size, 1) + bytes(HEAD_BYTES)) is None


@pytest.mark.parametrize("form", [b"RIFF", b"RIFX", b"RF64", b"BW64"])
def test_a_wav_is_no_foreign_container(form: bytes) -> None:
    head = form + bytes(4) + b"WAVEfmt "
    assert is_wav(head)
    assert container_of(head) is None


@settings(deadline=None)
@given(st.lists(st.integers(-300, 300), max_size=HEAD_BYTES // 2))
def test_quiet_speech_is_no_container(values: list[int]) -> None:
    """Samples just below zero begin with FF, as frames of MPEG audio do."""
    assert container_of(struct.pack(f"<{len(values)}h", *values)) is None


def test_no_constant_is_a_container() -> None:
    values = range(-4_096, 4_096)
    named = {value: container_of(struct.pack("<h", value) * 1_000) for value in values}
    assert {value for value, name in named.items() if name is not None} == set()


# --- streams --------------------------------------------------------------------------------


def streamed(data: bytes, step: int) -> bytes:
    decoder = StreamDecoder("-")
    pieces = [decoder.feed(data[at : at + step]) for at in range(0, len(data), step)]
    return b"".join([*pieces, decoder.finish()])


@settings(deadline=None)
@given(st.binary(max_size=2 * HEAD_BYTES), st.integers(1, 5_000))
def test_raw_pcm_goes_through_as_it_is(data: bytes, step: int) -> None:
    raw = b"\0\0" + data
    assert streamed(raw, step) == raw[: len(raw) // 2 * 2]


@pytest.mark.parametrize("step", [1, 11, 3_200, 100_000])
@pytest.mark.parametrize(("channels", "rate"), [(1, 16_000), (2, 48_000), (6, 44_100)])
@pytest.mark.parametrize("size", [None, 0, 0xFFFF_FFFF])
def test_a_wav_is_decoded_as_it_comes(
    channels: int, rate: int, size: int | None, step: int
) -> None:
    s16 = Encoding(PCM, 16)
    values: list[list[float]] = [[at % 900 - 450] * channels for at in range(rate // 10)]
    fmt = fmt_body(s16, channels, rate)
    file = wav_of(fmt, packed(s16, values), riff_size=size, data_size=size)
    pcm = streamed(file, step)
    assert len(pcm) == 3_200
    assert pcm == parse_wav(file)


@pytest.mark.parametrize("step", [1, 100_000])
@pytest.mark.parametrize("name", FOREIGN)
def test_another_container_is_refused_with_the_remedy(name: str, step: int) -> None:
    with pytest.raises(InvalidMessage) as caught:
        streamed(FOREIGN[name] + bytes(2 * HEAD_BYTES if name != "AAC" else 0), step)
    assert caught.value.fields["field"] == "-"
    assert f"got {name}" in caught.value.fields["limit"]
    assert "ffmpeg" in caught.value.fields["remedy"]


def test_a_stream_that_ends_within_its_wav_header_is_refused() -> None:
    with pytest.raises(InvalidMessage, match="unreadable WAV"):
        streamed(b"RIFF\0\0\0\0WAVEfmt ", 5)


def test_an_empty_stream_has_no_audio() -> None:
    assert array("h", streamed(b"", 1)).tolist() == []
