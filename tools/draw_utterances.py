"""Draw docs/utterances.svg: what endpointing finds in a recording.

    .venv/bin/python -m tools.draw_utterances

Owns: the picture. Its colours are attributes, without styles, so that a page with a strict content
policy shows it. Never does: decide what is speech. Read next: docs/utterances.md.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from eventsched.audio.endpointing import Endpointer, Endpointing, UtteranceLimits
from eventsched.audio.speech_detector import SpeechDetector
from eventsched.demo.speech.samples import samples

TARGET = Path(__file__).parents[1] / "docs" / "utterances.svg"
RATE = 16_000
MS_BYTES = RATE * 2 // 1_000
PAUSES_MS = (1_000, 800, 1_400, 1_600)
WIDTH, LEFT, HEIGHT = 900, 90, 190
AUDIO_Y, AUDIO_HALF, SENT_Y, END_Y = 60, 40, 120, 152
GREY, BLUE, GREEN, RED = "#667788", "#3b6ea5", "#2e8b57", "#b03a2e"


def recording() -> bytes:
    """Return three sentences with pauses."""
    pieces = [bytes(PAUSES_MS[0] * MS_BYTES)]
    for sentence, pause_ms in zip(samples()[1].spoken(), PAUSES_MS[1:], strict=True):
        pieces += [sentence, bytes(pause_ms * MS_BYTES)]
    return b"".join(pieces)


def utterances(pcm: bytes) -> list[tuple[int, int, int]]:
    """Return start, end and time of the end of each utterance in ms."""
    endpointer = Endpointer(
        Endpointing(), RATE, UtteranceLimits(9_900, 2_500), SpeechDetector(RATE)
    )
    found: list[tuple[int, int, int]] = []
    sent, at = b"", 0
    for now in range(0, len(pcm), 20 * MS_BYTES):
        for segment in endpointer.feed(pcm[now : now + 20 * MS_BYTES]):
            sent += segment.pcm
            if segment.is_end:
                start = pcm.index(sent, at)
                at = start + len(sent)
                found.append((start // MS_BYTES, at // MS_BYTES, now // MS_BYTES + 20))
                sent = b""
    return found


def draw(pcm: bytes) -> str:
    """Return the picture."""
    length_ms = len(pcm) // MS_BYTES

    def x(ms: int) -> float:
        return round(LEFT + ms * (WIDTH - LEFT - 10) / length_ms, 1)

    lines = [
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
            'font-family="sans-serif" font-size="13">'
        ),
        "<title>Endpointing of three sentences</title>",
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>',
    ]
    for y, label in ((AUDIO_Y, "audio"), (SENT_Y, "sent"), (END_Y, "ends")):
        lines.append(f'<text x="8" y="{y + 5}" fill="{GREY}">{label}</text>')
    samples_ = np.frombuffer(pcm, "<i2").astype(float)
    peaks = np.abs(samples_[: len(samples_) // 320 * 320]).reshape(-1, 320).max(axis=1)
    for index, peak in enumerate(peaks / peaks.max() * AUDIO_HALF):
        at = x(index * 20)
        lines.append(
            f'<line x1="{at}" x2="{at}" y1="{AUDIO_Y - peak:.1f}" y2="{AUDIO_Y + peak + 0.5:.1f}" '
            f'stroke="{BLUE}"/>'
        )
    for number, (start, end, found) in enumerate(utterances(pcm)):
        width = round(x(end) - x(start), 1)
        lines += [
            (
                f'<rect x="{x(start)}" y="{SENT_Y - 9}" width="{width}" height="18" rx="3" '
                f'fill="{GREEN}"/>'
            ),
            f'<text x="{x(start) + 8}" y="{SENT_Y + 5}" fill="#ffffff">utterance {number}</text>',
            (
                f'<line x1="{x(found)}" x2="{x(found)}" y1="{SENT_Y - 12}" y2="{END_Y + 6}" '
                f'stroke="{RED}"/>'
            ),
            f'<text x="{x(found) + 4}" y="{END_Y + 5}" fill="{RED}">end</text>',
        ]
    for second in range(0, length_ms // 1_000 + 1, 2):
        lines.append(
            f'<text x="{x(second * 1_000)}" y="{HEIGHT - 8}" fill="{GREY}">{second} s</text>'
        )
    return "\n".join([*lines, "</svg>"]) + "\n"


def main() -> None:
    TARGET.write_text(draw(recording()), encoding="utf-8")
    print(TARGET.name)


if __name__ == "__main__":
    main()
