"""Rule 9 for PCM16: duration from bytes and rate; the limits of a chunk; cutting."""

import pytest

from eventsched.audio.chunks import CHUNK_BYTES_MAX, pcm_bytes, pcm_ms, split_audio
from eventsched.errors import ChunkTooLarge, InvalidMessage


@pytest.mark.parametrize(
    ("size", "rate", "ms"),
    [
        (0, 16_000, 0),
        (2, 16_000, 1),  # some audio is never nothing
        (640, 16_000, 20),
        (3_200, 16_000, 100),
        (32_000, 16_000, 1_000),
        (320, 8_000, 20),
        (1_764, 44_100, 20),
        (1_766, 44_100, 20),
        (96_000, 48_000, 1_000),
        (22_050, 11_025, 1_000),
    ],
)
def test_rule_9_duration_of_pcm_is_its_samples_over_the_rate(size: int, rate: int, ms: int) -> None:
    assert pcm_ms(size, rate) == ms


def test_half_a_sample_is_refused() -> None:
    with pytest.raises(InvalidMessage) as caught:
        split_audio(bytes(641), "pcm16", 16_000)
    assert caught.value.fields["field"] == "audio"
    assert "641" in caught.value.fields["limit"]
    assert "even" in caught.value.fields["remedy"]


@pytest.mark.parametrize("ms", [20, 21, 100, 999, 1_000])
def test_up_to_a_second_is_one_chunk(ms: int) -> None:
    (chunk,) = split_audio(bytes(pcm_bytes(ms, 16_000)), "pcm16", 16_000)
    assert chunk.ms == ms


@pytest.mark.parametrize("ms", [0, 1, 19])
def test_a_chunk_below_20_ms_is_refused_unless_final(ms: int) -> None:
    pcm = bytes(pcm_bytes(ms, 16_000))
    with pytest.raises(InvalidMessage, match="at least 20 ms"):
        split_audio(pcm, "pcm16", 16_000)
    (chunk,) = split_audio(pcm, "pcm16", 16_000, end_of_utterance=True)
    assert chunk.ms == ms


@pytest.mark.parametrize(
    ("ms", "lengths"),
    [
        (1_001, [100] * 9 + [101]),
        (1_020, [100] * 9 + [120]),
        (1_021, [100] * 10 + [21]),
        (1_100, [100] * 11),
        (2_350, [100] * 23 + [50]),
    ],
)
def test_more_than_a_second_is_cut_into_100_ms(ms: int, lengths: list[int]) -> None:
    pcm = bytes(range(256)) * (ms * 32 // 256 + 1)
    pcm = pcm[: pcm_bytes(ms, 16_000)]
    chunks = split_audio(pcm, "pcm16", 16_000)
    assert [chunk.ms for chunk in chunks] == lengths
    assert b"".join(chunk.payload for chunk in chunks) == pcm


def test_a_second_at_48_khz_is_cut_because_of_its_bytes() -> None:
    chunks = split_audio(bytes(96_000), "pcm16", 48_000)
    assert [chunk.ms for chunk in chunks] == [100] * 10
    assert all(len(chunk.payload) <= CHUNK_BYTES_MAX for chunk in chunks)


def test_a_list_is_no_pcm() -> None:
    with pytest.raises(InvalidMessage, match="bytes of PCM16"):
        split_audio([b"\0\0" * 320], "pcm16", 16_000)


def test_a_chunk_that_cannot_be_cut_small_enough_is_too_large() -> None:
    # One Opus packet is never cut: 65,533 bytes and its length fit, the next packet does not.
    packet = b"\x08" + bytes(65_532)
    (chunk,) = split_audio([packet], "opus", 16_000)
    assert len(chunk.payload) == 65_535
    with pytest.raises(ChunkTooLarge) as caught:
        split_audio([packet, packet[:9]], "opus", 16_000)
    assert caught.value.fields["limit"].startswith("65536 bytes")
    assert caught.value.fields["remedy"]
