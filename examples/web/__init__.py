"""Live captions in two languages from the microphone of a page: `python -m examples.web`."""
