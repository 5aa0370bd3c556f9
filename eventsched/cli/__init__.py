"""The command line: `eventsched COMMAND …`, one module per command.

app.py       list of commands, errors of one line, exit codes     (start here)
options.py   options of every command, and the decorator `@command`
plain_values.py  values that need no conversion
output.py    tables, times and JSON on stdout; escaping_console.py
standard_streams.py  closed pipes, full disks, encodings
serve.py     parts that `up` and `run` share
timeline.py status_view.py stream_sessions.py  parts of one command each

Owns: parsing arguments, printing results.
Never does: scheduling decisions, or reads of Redis: see history/reader.py, history/status.py and
store/. Log lines are in eventsched/logs.py, Ctrl-C in eventsched/interrupts.py.
"""

import signal

from eventsched.cli.standard_streams import open_standard_streams
from eventsched.interrupts import exit_at_once, exit_despite_threads


def main() -> int:
    """Run the program and return its exit code; Ctrl-C works before the large modules load."""
    signal.signal(signal.SIGINT, exit_at_once)
    open_standard_streams()
    from eventsched.cli.app import main

    code = 1
    try:
        code = main()
    finally:
        exit_despite_threads(code)
    return code
