# Copies one version of the model and verifies the copy: every file that manifest.json lists, with its sha256, and no
# other. Anything else ends the container, and the pod is never Ready. So does a model that was made faulty on purpose.
from=$1
to=$2
faulty=$3
fail() {
  echo "error: model $from: $1" >&2
  exit 1
}
[ -f "$from/manifest.json" ] || fail "expected manifest.json beside saved_model.pb, got none; export_resnet.py writes it"
fault=$(sed -n 's/^  "fault": //p' "$from/manifest.json" | sed 's/,$//')
if [ "${fault:-null}" != null ] && [ "$faulty" != allow-faulty ]; then
  fail "its manifest says that it was made faulty on purpose, $fault; for a drill set modelStore.allowFaulty"
fi
# A container that starts again finds its own first copy, whole or not, and as read-only as the store may be.
if [ -e "$to" ]; then
  chmod -R u+w "$to"
  rm -r "$to"
fi
mkdir -p "$to"
cp -R "$from/." "$to/"
cd "$to"
# The manifest has a line for each name and each hash, two and three levels deep.
sums=/models/.sha256sums
sed -n '/^  "files": {$/,/^  }/{
  s/^    "\([^"\\]*\)": {$/\1/
  t name
  s/^      "sha256": "\([0-9a-f]\{64\}\)".*$/\1/
  t sum
  b
  :name
  h
  b
  :sum
  G
  s/\n/  /
  p
}' manifest.json > "$sums"
[ -s "$sums" ] || fail "manifest.json lists no files"
listed=$(sed 's/^[0-9a-f]*  //' "$sums" | sort)
found=$(find . -type f ! -path ./manifest.json | sed 's|^\./||' | sort)
[ "$listed" = "$found" ] || fail "expected the files of manifest.json, got: $(echo "$found" | tr '\n' ' ')"
[ -z "$(find . ! -type f ! -type d)" ] || fail "links and devices are not files"
sha256sum --check --quiet "$sums" || fail "the files are not those of manifest.json"
echo "model $from: $(echo "$listed" | wc -l) files verified"
