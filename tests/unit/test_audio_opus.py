"""Rule 9 for Opus: how long a packet plays is in its own header (RFC 6716, 3.1 and 3.2)."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventsched.audio.chunks import (
    join_opus,
    one_chunk,
    opus_ms,
    packet_half_ms,
    split_audio,
    split_opus,
)
from eventsched.errors import InvalidMessage

# RFC 6716, table 2: frame sizes in ms by configuration number.
FRAME_MS = (
    [10, 20, 40, 60] * 3  # 0-11: SILK-only, NB, MB, WB
    + [10, 20] * 2  # 12-15: hybrid, SWB, FB
    + [2.5, 5, 10, 20] * 4  # 16-31: CELT-only, NB, WB, SWB, FB
)


def toc(config: int, code: int, *, stereo: bool = False) -> int:
    return config << 3 | stereo << 2 | code


@pytest.mark.parametrize("stereo", [False, True])
@pytest.mark.parametrize("config", range(32))
def test_code_0_is_one_frame(config: int, stereo: bool) -> None:
    packet = bytes([toc(config, 0, stereo=stereo)]) + bytes(20)
    assert packet_half_ms(packet) == 2 * FRAME_MS[config]


@pytest.mark.parametrize("config", range(32))
def test_codes_1_and_2_are_two_frames(config: int) -> None:
    equal = bytes([toc(config, 1)]) + bytes(20)
    unequal = bytes([toc(config, 2), 5]) + bytes(12)
    assert packet_half_ms(equal) == packet_half_ms(unequal) == 4 * FRAME_MS[config]


@pytest.mark.parametrize("config", range(32))
def test_code_3_says_how_many_frames_up_to_120_ms(config: int) -> None:
    most = int(120 / FRAME_MS[config])
    for count in (1, most):
        packet = bytes([toc(config, 3), 0xC0 | count]) + bytes(48)
        assert packet_half_ms(packet) == 2 * FRAME_MS[config] * count
    with pytest.raises(InvalidMessage, match="120 ms"):
        packet_half_ms(bytes([toc(config, 3), most + 1]) + bytes(50))


@pytest.mark.parametrize(
    ("packet", "says"),
    [
        (b"", "TOC"),
        (bytes([toc(1, 1)]) + bytes(3), "two equal frames"),
        (bytes([toc(1, 2)]), "first of two frames"),
        (bytes([toc(1, 2), 9]) + bytes(8), "first of two frames"),
        (bytes([toc(1, 2), 252]), "first of two frames"),
        (bytes([toc(1, 2), 252, 1]) + bytes(255), "first of two frames"),
        (bytes([toc(1, 3)]), "frame count"),
        (bytes([toc(1, 3), 0]), "1 frame"),
    ],
)
def test_a_malformed_packet_is_refused(packet: bytes, says: str) -> None:
    with pytest.raises(InvalidMessage, match=says) as caught:
        split_audio([packet], "opus", 16_000)
    assert caught.value.fields["field"] == "audio"
    assert "u16 big-endian" in caught.value.fields["remedy"]


def test_a_first_frame_of_252_bytes_or_more_has_a_length_of_two_bytes() -> None:
    packet = bytes([toc(1, 2), 252, 1]) + bytes(256)
    assert packet_half_ms(packet) == 2 * 2 * 20


@pytest.mark.parametrize(
    ("payload", "says"),
    [
        (b"\0", "length of two bytes"),
        (struct.pack(">H", 5) + b"\x08\0\0", "5 bytes expected, 3 left"),
        (struct.pack(">H", 0), "TOC"),
    ],
)
def test_malformed_framing_is_refused(payload: bytes, says: str) -> None:
    with pytest.raises(InvalidMessage, match=says):
        split_audio(payload, "opus", 16_000)


TWENTY_MS = bytes([toc(1, 0)]) + bytes(30)
FIVE_MS = bytes([toc(17, 0)]) + bytes(10)
TWO_AND_A_HALF_MS = bytes([toc(16, 0)]) + bytes(10)


def test_a_list_and_its_framing_are_the_same_chunk() -> None:
    packets = [TWENTY_MS] * 5
    assert split_audio(packets, "opus", 16_000) == split_audio(join_opus(packets), "opus", 16_000)


def test_half_milliseconds_add_up() -> None:
    assert opus_ms([TWO_AND_A_HALF_MS] * 8) == 20
    assert opus_ms([TWO_AND_A_HALF_MS]) == 3
    assert opus_ms([]) == 0


def test_more_than_a_second_is_cut_between_packets() -> None:
    packets = [TWENTY_MS] * 53 + [FIVE_MS] * 3
    chunks = split_audio(packets, "opus", 16_000)
    assert [chunk.ms for chunk in chunks] == [100] * 10 + [75]
    assert [packet for chunk in chunks for packet in split_opus(chunk.payload)] == packets


def test_a_chunk_beyond_a_second_is_refused_before_all_of_it_is_read() -> None:
    """A gateway reads chunks in its event loop: 65,536 bytes may have 21,845 packets."""
    full = [TWO_AND_A_HALF_MS] * 400
    assert one_chunk(join_opus(full), "opus", 16_000).ms == 1_000
    packet = join_opus([bytes([toc(16, 0)])])
    malformed = b"\xff\xff"
    for payload in (packet * 401 + malformed, packet * 21_845):
        with pytest.raises(InvalidMessage, match="at most 1000 ms a chunk, got more"):
            one_chunk(payload, "opus", 16_000)
    with pytest.raises(InvalidMessage, match="a packet of 65535 bytes expected"):
        one_chunk(packet * 400 + malformed, "opus", 16_000)


def test_a_rest_too_short_alone_stays_with_the_chunk_before() -> None:
    chunks = split_audio([TWENTY_MS] * 50 + [FIVE_MS], "opus", 16_000)
    assert [chunk.ms for chunk in chunks] == [100] * 9 + [105]


def test_a_short_chunk_is_refused_unless_final() -> None:
    with pytest.raises(InvalidMessage, match="at least 20 ms"):
        split_audio([FIVE_MS], "opus", 16_000)
    assert split_audio([FIVE_MS], "opus", 16_000, end_of_utterance=True)[0].ms == 5
    assert split_audio([], "opus", 16_000, end_of_utterance=True)[0].payload == b""


@given(st.lists(st.binary(min_size=1, max_size=40).map(lambda b: bytes([b[0] & ~3]) + b[1:])))
def test_framing_takes_apart_what_it_joins(packets: list[bytes]) -> None:
    assert split_opus(join_opus(packets)) == packets


@given(st.binary(max_size=80))
def test_any_bytes_are_a_chunk_or_a_typed_refusal(payload: bytes) -> None:
    try:
        chunks = split_audio(payload, "opus", 16_000, end_of_utterance=True)
    except InvalidMessage as refused:
        assert {"field", "limit", "remedy"} <= set(refused.fields)
    else:
        assert b"".join(chunk.payload for chunk in chunks) == payload
