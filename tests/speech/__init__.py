"""The bundled speech, the recogniser, the translator, and both behind a node."""
