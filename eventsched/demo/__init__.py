"""The main job on real speech, to look at: `eventsched demo`.

    run.py        starts roles, nodes and speakers, watches, ends all of it      (start here)
    speakers.py   the speakers: bundled recordings, said at their own pace
    scoreboard.py      what the log says of each job, and what of it is not as it should be
    view.py       the board on a terminal, or as lines elsewhere

A user of the library and of the log like any other: nothing in eventsched depends on it.
"""
