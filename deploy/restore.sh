#!/bin/sh
# Restore a copy that deploy/backup.sh made, to folders that do not exist yet.
#
#   restore.sh COPY SERVER_FOLDER ARCHIVE ARCHIVE_KEY KEY_STORE
#
# ARCHIVE, ARCHIVE_KEY and KEY_STORE may be `-`. Then start the server on SERVER_FOLDER with
# `appendonly yes` and follow docs/operations.md (Backup and restore).
set -eu
umask 077
[ $# -eq 5 ] || { echo "usage: restore.sh COPY SERVER_FOLDER ARCHIVE ARCHIVE_KEY KEY_STORE" >&2; exit 2; }
copy=$1 server=$2 archive=$3 archive_key=$4 key_store=$5
for path in "$server" "$archive" "$archive_key" "$key_store"; do
  [ "$path" = - ] || [ ! -e "$path" ] || { echo "$path exists already" >&2; exit 1; }
done
for path in "$server" "$archive" "$archive_key" "$key_store"; do
  [ "$path" = - ] || mkdir -p "$(dirname "$path")"
done
cp -R "$copy/server" "$server"
[ "$archive" = - ] || cp -R "$copy/archive" "$archive"
[ "$archive_key" = - ] || cp "$copy/archive.key" "$archive_key"
[ "$key_store" = - ] || cp -R "$copy/keys" "$key_store"
echo "restored; start the server, then: eventsched verify --archive ARCHIVE, eventsched audit verify ARCHIVE"
