"""Audio as producers and nodes exchange it: chunks, PCM16, WAV."""
