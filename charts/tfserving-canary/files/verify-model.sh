# Copies one version of the model and verifies the copy: it must hold exactly the files of manifest.sha256, each with
# its hash. Otherwise the container fails, and the pod never becomes Ready. A model that was made faulty on purpose
# fails too.
from=$1
to=$2
faulty=$3
fail() {
  echo "error: model $from: $1" >&2
  exit 1
}
# The nearest folder above that exists says what is wrong: the version, the model's name, or the path of the store.
if [ ! -d "$from" ]; then
  above=$(dirname "$from")
  while [ ! -d "$above" ]; do above=$(dirname "$above"); done
  fail "expected this folder in the store, got none; $above holds: $(ls "$above" | tr '\n' ' ' | sed 's/ $//'); put\
 the version there, or correct model.name, tracks.TRACK.version, modelStore.basePath or the claim"
fi
[ -f "$from/manifest.json" ] || fail "expected manifest.json in it, got none; write it with: tfcanary export manifest\
 DIR; or serve the model unverified with modelStore.verifyManifest=false"
[ -f "$from/manifest.sha256" ] || fail "expected manifest.sha256 beside manifest.json, got none; write it with:\
 tfcanary export manifest DIR; or serve the model unverified with modelStore.verifyManifest=false"
fault=$(sed -n 's/^  "fault": //p' "$from/manifest.json" | sed 's/,$//')
if [ "${fault:-null}" != null ] && [ "$faulty" != allow-faulty ]; then
  fail "its manifest says that it was made faulty on purpose, $fault; for a drill set modelStore.allowFaulty"
fi
# A restarted container finds its first copy, complete or not, and as read-only as the store may be.
if [ -e "$to" ]; then
  chmod -R u+w "$to"
  rm -r "$to"
fi
mkdir -p "$to"
cp -R "$from/." "$to/"
cd "$to"
[ -s manifest.sha256 ] || fail "manifest.sha256 lists no files"
# A name outside of the model, a name that sha256sum would unescape, and a line that it would skip are not found.
listed=$(sed 's/^[0-9a-f]\{64\}  //' manifest.sha256 | sort)
found=$(find . -type f ! -path ./manifest.sha256 | sed 's|^\./||' | sort)
[ "$listed" = "$found" ] || fail "expected the files of manifest.sha256, got: $(echo "$found" | tr '\n' ' '); if you\
 changed the model, write its manifest again with: tfcanary export manifest DIR"
[ -z "$(find . ! -type f ! -type d)" ] || fail "expected only files and folders, got a link or a device"
# One stream: the log of two may be in any order, and its last line is to be the error.
sha256sum --check --quiet manifest.sha256 >&2 || fail "the files are not those of manifest.sha256; copy the version\
 again, or if you changed it, write its manifest again with: tfcanary export manifest DIR"
# The digest of the sums is that of the model; a rollout's record has it from this line.
echo "model $from: $(echo "$listed" | wc -l) files verified, sha256:$(sha256sum <manifest.sha256 | cut -c 1-64)"
