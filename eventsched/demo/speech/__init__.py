"""Speech for the demo: bundled recordings, an offline recogniser, an offline translator.

    samples      the recordings and their texts
    recogniser   PCM16 to words, with pocketsphinx (extra `speech`)
    translator   words to another language, with apertium where it is installed
    nodes        a node whose handler uses both

Must not: schedule. Only the demo imports this package.
"""
