"""The archive: log entries sealed in files that are read without a server and show any change.

merkle.py       Merkle trees of RFC 6962 (start here: it needs nothing else)
codec.py        the stored bytes of a log entry, and their leaf
signing.py      the signing key and its public key
manifest.py     the record of a sealed segment, and its signed tree head
layout.py       the folder of an archive and the names of its files
segment.py      the Parquet files of a segment
snapshot.py     snapshots of the read models, from which folds start
sealer.py       makes a segment from entries
thrift.py       reads numbers of Parquet headers
footer.py       joins the footers of Parquet files
pack.py         a file with many segments and an index of their sessions and ids
packer.py       packs sealed segments
segments.py     packs and single segments as one sequence
archiver.py     the role that seals the log
commands.py     the scripts of the archive
config.py       the settings of the role
threads.py      runs file access in a thread
verifier.py     verifies without a server
proof.py        proves that the archive has an entry, and checks such proofs
sql.py          SQL over the files

Next: history/log.py (archive and log as one history), roles/trimmer.py (trims the log).
Must not: import pyarrow, cryptography or duckdb before they are needed (extras `archive` and
`query`).
"""
