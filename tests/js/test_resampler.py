"""The resampler of the microphone against soxr: equal in the passband, aliases below -60 dB."""

from __future__ import annotations

import subprocess

import numpy as np
import pytest
import soxr

from tests.js.programs import ROOT, node

OUT = 16_000
RATES = (8_000, 16_000, 22_050, 44_100, 48_000, 96_000)
ALIAS_DB_MAX = -60.0
EDGE_S = 0.05
"""What the beginning and the end of a signal are left out, where a filter has half of its input."""
SCRIPT = ROOT / "tests" / "js" / "resample.mjs"


def resampled(signal: np.ndarray, rate: int) -> np.ndarray:
    """The output of the client's resampler."""
    data = signal.astype("<f4").tobytes()
    run = subprocess.run([node(), SCRIPT, str(rate)], input=data, capture_output=True, check=True)
    return np.frombuffer(run.stdout, "<f4").astype(float)


def tone(hertz: float, rate: int, seconds: float = 0.5) -> np.ndarray:
    return 0.9 * np.sin(2 * np.pi * hertz * np.arange(int(rate * seconds)) / rate)


def level_db(signal: np.ndarray) -> float:
    """Mean level against a tone of full scale, without the edges."""
    inner = signal[int(EDGE_S * OUT) : -int(EDGE_S * OUT)]
    return float(20 * np.log10(max(1e-12, np.sqrt(np.mean(inner**2)) * np.sqrt(2))))


@pytest.mark.parametrize("rate", RATES)
def test_the_passband_is_that_of_soxr(rate: int) -> None:
    nyquist = min(rate, OUT) / 2
    noise = np.random.default_rng(7).normal(0, 0.1, rate)
    spectrum = np.fft.rfft(noise)
    spectrum[np.fft.rfftfreq(rate, 1 / rate) > 0.85 * nyquist] = 0
    signal = np.fft.irfft(spectrum, rate)
    output = resampled(signal, rate)
    wanted = soxr.resample(signal, rate, OUT, quality="VHQ")[: len(output)]
    assert len(output) > 0.98 * OUT
    assert level_db(output - wanted) - level_db(wanted) < ALIAS_DB_MAX


@pytest.mark.parametrize("rate", [rate for rate in RATES if rate > OUT])
def test_aliases_are_below_60_db(rate: int) -> None:
    tones = [8_050, 8_500, 9_000, 10_000, 0.4 * rate, 0.45 * rate, 0.49 * rate]
    for hertz in [each for each in tones if OUT / 2 < each < rate / 2]:
        output = resampled(tone(hertz, rate), rate)
        assert level_db(output) - level_db(tone(1_000, OUT)) < ALIAS_DB_MAX, hertz
        assert np.std(soxr.resample(tone(hertz, rate), rate, OUT)) < 0.1, "soxr removes it as well"


def test_the_output_does_not_drift_over_minutes() -> None:
    rate = 44_100
    output = resampled(np.tile(tone(441, rate, 1.0), 120), rate)
    wanted = np.tile(tone(441, OUT, 1.0), 120)[: len(output)]
    late = slice(-OUT, -OUT // 10)
    assert len(output) > 119.9 * OUT
    assert np.max(np.abs(output[late] - wanted[late])) < 1e-3
