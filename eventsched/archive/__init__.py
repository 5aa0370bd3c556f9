"""The archive: what happened, sealed in files that need no server and show every change.

merkle.py     trees of RFC 6962                       (start here: it needs nothing else)
codec.py      the stored bytes of one log entry
signing.py    the signing key and its public half
manifest.py     what one sealed segment is: its record, its signed head
layout.py     names of files, an archive's folder
segment.py    entries -> columns -> Parquet            snapshot.py  records that folds start from
sealer.py       one segment, from entries to files       archiver.py  seals the log
roles/trimmer.py   what of the log may go                   commands.py     scripts of the archive
history/log.py    archive and log as one history           config.py      what runs an archiver
verifier.py      verify and prove, without a server       sql.py     SQL over the files

Never does: import pyarrow, cryptography or duckdb before they are needed (extras `archive` and
`query`).
"""
