// Captures a microphone in an audio worklet: mono, resampled to 16 kHz, PCM16 in blocks of 100 ms.
// A page loads it from its own origin: audioContext.audioWorklet.addModule("/capture.worklet.js").
//
// Owns: the low-pass and the resampler, the blocks. Must not: send. Read next: microphone.js.

/** Sample rate of the output in Hz. */
export const RATE = 16_000;
const BLOCK_SAMPLES = RATE / 10;
/** Attenuation of aliases, and with it the length of the filter. */
const STOP_DB = 80;
/** Width of the filter's transition, as a part of the lower of both Nyquist frequencies. */
const TRANSITION = 0.12;

/**
 * Resamples by a rational factor with a polyphase low-pass: a sinc in a Kaiser window, whose
 * stopband begins at the lower of both Nyquist frequencies. So no alias is above -60 dB, and
 * frequencies below 88 % of it pass unchanged.
 */
export class Resampler {
  /** @type {Float32Array[]} */ #phases = [];
  #up;
  #down;
  #taps;
  /** The latest input; its first sample has the number `#start`. */ #history;
  #start;
  #output = 0;

  /** @param {number} inputRate In Hz. @param {number} [outputRate] In Hz. */
  constructor(inputRate, outputRate = RATE) {
    const divisor = greatestCommonDivisor(Math.round(inputRate), outputRate);
    this.#up = outputRate / divisor;
    this.#down = Math.round(inputRate) / divisor;
    const nyquist = Math.min(inputRate, outputRate) / 2;
    const transition = (2 * Math.PI * TRANSITION * nyquist) / inputRate;
    this.#taps = 2 * Math.ceil((STOP_DB - 7.95) / (2.285 * transition) / 2);
    const cutoff = (nyquist * (1 - TRANSITION / 2)) / inputRate; // in cycles a sample
    for (let phase = 0; phase < this.#up; phase += 1) {
      this.#phases.push(filterOf(phase / this.#up, this.#taps, cutoff));
    }
    this.#start = -this.#taps / 2;
    this.#history = new Float32Array(this.#taps / 2);
  }

  /** Delay of the output: it is complete once so many more samples of the input have arrived. */
  get delay() {
    return this.#taps / 2;
  }

  /**
   * Return the samples of the output that the input so far determines.
   * @param {Float32Array} input
   */
  process(input) {
    const samples = new Float32Array(this.#history.length + input.length);
    samples.set(this.#history);
    samples.set(input, this.#history.length);
    const end = this.#start + samples.length;
    const most = Math.max(0, Math.ceil((samples.length * this.#up) / this.#down) + 1);
    const output = new Float32Array(most);
    let count = 0;
    for (;;) {
      const place = this.#output * this.#down;
      const center = Math.floor(place / this.#up);
      if (center + this.#taps / 2 >= end) break;
      const filter = this.#phases[place % this.#up];
      const first = center - this.#taps / 2 + 1 - this.#start;
      let sum = 0;
      for (let tap = 0; tap < this.#taps; tap += 1) sum += filter[tap] * samples[first + tap];
      output[count] = sum;
      count += 1;
      this.#output += 1;
    }
    const nextCenter = Math.floor((this.#output * this.#down) / this.#up);
    const from = Math.max(0, nextCenter - this.#taps / 2 + 1 - this.#start);
    this.#history = samples.slice(from);
    this.#start += from;
    if (this.#output >= this.#up) this.#wrap();
    return output.subarray(0, count);
  }

  /** Keep the numbers of samples small: a whole period of the ratio is taken off both. */
  #wrap() {
    const periods = Math.floor(this.#output / this.#up);
    this.#output -= periods * this.#up;
    this.#start -= periods * this.#down;
  }
}

/** @param {number} a @param {number} b @returns {number} */
function greatestCommonDivisor(a, b) {
  return b === 0 ? a : greatestCommonDivisor(b, a % b);
}

/**
 * The filter of one phase; its sum is 1.
 * @param {number} offset Place of the output between two samples, 0 to 1.
 * @param {number} taps
 * @param {number} cutoff In cycles a sample of the input.
 */
function filterOf(offset, taps, cutoff) {
  const beta = 0.1102 * (STOP_DB - 8.7);
  const filter = new Float64Array(taps);
  for (let tap = 0; tap < taps; tap += 1) {
    const x = tap - taps / 2 + 1 - offset;
    const sinc = x === 0 ? 1 : Math.sin(2 * Math.PI * cutoff * x) / (2 * Math.PI * cutoff * x);
    const edge = (2 * x) / taps;
    filter[tap] = Math.abs(edge) >= 1 ? 0 : sinc * bessel(beta * Math.sqrt(1 - edge * edge));
  }
  const sum = filter.reduce((whole, value) => whole + value, 0);
  return Float32Array.from(filter, (value) => value / sum);
}

/** The modified Bessel function of order 0. @param {number} x */
function bessel(x) {
  let term = 1;
  let sum = 1;
  for (let k = 1; term > 1e-12 * sum; k += 1) {
    term *= (x / (2 * k)) ** 2;
    sum += term;
  }
  return sum;
}

/**
 * Float samples as 16 bits; what is beyond full scale is limited.
 * @param {Float32Array} samples
 * @param {Int16Array} target
 * @param {number} at Index in `target` of the first sample.
 */
export function toPcm16(samples, target, at) {
  for (let index = 0; index < samples.length; index += 1) {
    const value = Math.round(samples[index] * 32_767);
    target[at + index] = Math.max(-32_768, Math.min(32_767, value));
  }
}

/** What an audio worklet has, and other places do not. @type {any} */
const scope = globalThis;
const Processor = scope.AudioWorkletProcessor ?? class {};

/** Posts an Int16Array for each block of 100 ms. */
class CaptureProcessor extends Processor {
  #resampler = new Resampler(scope.sampleRate ?? RATE);
  #block = new Int16Array(BLOCK_SAMPLES);
  #filled = 0;

  /** @param {Float32Array[][]} inputs */
  process(inputs) {
    const channels = inputs[0];
    if (channels?.length) this.#take(this.#resampler.process(mixed(channels)));
    return true;
  }

  /** @param {Float32Array} samples */
  #take(samples) {
    let rest = samples;
    while (rest.length) {
      const part = rest.subarray(0, BLOCK_SAMPLES - this.#filled);
      toPcm16(part, this.#block, this.#filled);
      this.#filled += part.length;
      rest = rest.subarray(part.length);
      if (this.#filled === BLOCK_SAMPLES) {
        /** @type {any} */ (this).port.postMessage(this.#block, [this.#block.buffer]);
        this.#block = new Int16Array(BLOCK_SAMPLES);
        this.#filled = 0;
      }
    }
  }
}

/** The mean of all channels. @param {Float32Array[]} channels */
function mixed(channels) {
  if (channels.length === 1) return channels[0];
  return channels[0].map(
    (_, index) => channels.reduce((sum, channel) => sum + channel[index], 0) / channels.length,
  );
}

scope.registerProcessor?.("eventsched-capture", CaptureProcessor);
