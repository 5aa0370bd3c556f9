"""Real speech for the demo: bundled recordings, an offline recogniser, an offline translator.

    samples      who says what, and the recordings themselves
    recogniser   PCM16 to words, with pocketsphinx (extra `speech`)
    translator   words to another language, with apertium where it is installed
    nodes        both behind a node, as any user would write one

Never does: scheduling. Nothing else in eventsched imports this package, but for the demo.
"""
