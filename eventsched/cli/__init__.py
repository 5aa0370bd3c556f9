"""The command line: `eventsched COMMAND …`, one module per command family.

app.py       the commands there are, errors as one line, exit codes     (start here)
options.py   what every command takes, and how it is run
logs.py      log lines on stderr       output.py   tables, times and JSON on stdout
interrupts.py  what Ctrl-C does         standard_streams.py  closed pipes, full disks, encodings
up.py run.py node.py stream.py history.py state.py status.py rebuild.py verify.py dead.py …

Never does: decide, or read Redis itself: that is history/reader.py's, history/status.py's and
store/cell.py's.
"""

import signal

from eventsched.cli.standard_streams import open_standard_streams
from eventsched.interrupts import exit_at_once, exit_despite_threads


def main() -> int:
    """The program's entrance; the exit code. Ctrl-C is quiet before anything heavy is imported."""
    signal.signal(signal.SIGINT, exit_at_once)
    open_standard_streams()
    from eventsched.cli.app import main

    code = 1
    try:
        code = main()
    finally:
        exit_despite_threads(code)
    return code
