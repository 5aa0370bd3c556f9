#!/bin/sh
# Copy the data of a running system to a new folder; deploy/restore.sh restores it.
#
#   backup.sh SERVER_FOLDER ARCHIVE ARCHIVE_KEY KEY_STORE TARGET
#
# SERVER_FOLDER has `appendonlydir` of Redis or Valkey (with several cells on several servers: one
# call for each). ARCHIVE, ARCHIVE_KEY and KEY_STORE may be `-`. The order matters: the archive is
# copied after the server, so it has all entries that were trimmed from the server, and the keys
# last, so they have the keys of all sessions of the copy.
#
# Links in these folders are refused: a copy of a link has no data, and no reader of archive and keys
# follows one. The arguments themselves may be links; what they point to is copied.
#
# Keep the copies of the keys apart from the other copies, and no longer than your retention: a copy
# of the key store undoes erasure (docs/privacy.md).
set -eu
umask 077
[ $# -eq 5 ] || { echo "usage: backup.sh SERVER_FOLDER ARCHIVE ARCHIVE_KEY KEY_STORE TARGET" >&2; exit 2; }
server=$1 archive=$2 archive_key=$3 key_store=$4 target=$5
[ ! -e "$target" ] || { echo "$target exists already" >&2; exit 1; }
refuse_links() {
  link=$(find "$1/" -type l 2>/dev/null | head -n 1)
  [ -z "$link" ] || { echo "$link is a link: put what it points to in its place" >&2; exit 1; }
}
for folder in "$server/appendonlydir" "$archive" "$key_store"; do
  [ "$folder" = - ] || refuse_links "$folder"
done
mkdir -p "$target"

# A rewrite replaces the files of the append-only file. A copy counts if the list of the files is the
# same before and after it. The server ignores a last command that is not whole.
copy_server() {
  rm -rf "$target/server"
  mkdir "$target/server" "$target/server/appendonlydir"
  cat "$server"/appendonlydir/*.manifest >"$target/manifest" || return 1
  cp -R "$server/appendonlydir/." "$target/server/appendonlydir" 2>"$target/errors" || return 1
  cat "$server"/appendonlydir/*.manifest | cmp -s - "$target/manifest" || return 1
  cmp -s "$target"/server/appendonlydir/*.manifest "$target/manifest"
}
tries=0
until copy_server; do
  tries=$((tries + 1))
  [ $tries -lt 20 ] || { echo "$server: its append-only file is rewritten all the time" >&2; exit 1; }
  sleep 1
done
rm -f "$target/manifest" "$target/errors"

# The archiver may replace its own files during the copy: then copy again.
copy_archive() {
  rm -rf "$target/archive"
  cp -R "$archive/." "$target/archive" 2>/dev/null
}
tries=0
[ "$archive" = - ] || until copy_archive; do
  tries=$((tries + 1))
  [ $tries -lt 20 ] || { echo "$archive cannot be copied" >&2; exit 1; }
  sleep 1
done
[ "$archive_key" = - ] || cp "$archive_key" "$target/archive.key"
[ "$key_store" = - ] || cp -R "$key_store/." "$target/keys"
refuse_links "$target" # that was put there during the copy
echo "copied to $target"
