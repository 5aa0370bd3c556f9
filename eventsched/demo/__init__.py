"""The demo, `eventsched demo`: rooms, nodes and results on recorded speech.

    run.py          starts roles, nodes and speakers, follows the log, ends everything (start here)
    speakers.py     the speakers: bundled recordings at their own pace
    scoreboard.py   the progress of each job according to the log, and the faults in it
    view.py         the scoreboard as tables on a terminal, or as lines elsewhere

The demo uses the library and the log as any application does. Only the command depends on it.
"""
