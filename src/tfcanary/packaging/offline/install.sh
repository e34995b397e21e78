#!/bin/sh
# Brings what is in this kit to a registry, and installs the chart from there by its digest. README.md says how.
set -eu

usage() {
  cat <<'END'
usage: install.sh --registry HOST[:PORT][/PATH] [options] [-- helm's options]

Verifies the kit, pushes its images, models and charts to a registry, and writes a values file with their digests.
With --release it installs or upgrades that release too. Otherwise it prints the line to type.

  --registry HOST[/PATH]   the registry, and the path that the kit's names are added to
  --ca-file FILE           authorities to trust at the registry, as PEM
  --registry-config FILE   a config.json with the registry's password, as `helm registry login` writes it
  --pull-secret NAME       the Secret with the registry's password, from which nodes pull (default: none)
  --model NAME             which model the values file names (default: the only one of the kit)
  --claim NAME             pods read models from this PersistentVolumeClaim, for Kubernetes before 1.35
  --models-to DIR          unpack the models there: the folder of the claim
  --output FILE            the values file that is written (default: kit-env.yaml)
  --release NAME           install or upgrade this release
  --namespace NAME         its namespace (default: default)
  --model-values FILE      its tracks (default: values/models/MODEL.yaml of the kit)
  --strategy NAME          its routes: a file of the kit's values/, without .yaml (default: stable)
  --help                   this text

Needs helm, tar and sha256sum, and nothing of the internet. Run again, it adds what is missing and changes nothing else.
exit codes: 0 done · 1 the kit or the registry's content is not what it should be, or helm refused · 2 wrong use ·
3 cannot reach the registry, the cluster or a program
END
}

say() { printf '%s %s\n' "$(date +%H:%M:%S)" "$*" >&2; }

# Ends with a message on one line. The first argument is the exit code.
fail() {
  code=$1
  shift
  printf 'error: %s\n' "$*" >&2
  exit "$code"
}

# The end of what a program said, on one line.
said() { grep -v '^[[:space:]]*$' "$scratch/said" | tail -n 1 | cut -c 1-400; }

# Runs a program that speaks to the registry. Its words are shown only if it fails.
ask() {
  wanted=$1
  shift
  "$@" </dev/null >"$scratch/answer" 2>"$scratch/said" || fail 3 "$wanted, got $(said)"
}

# Prints the digest that a tag stands for, or nothing if the registry has no such tag.
digest_of() {
  if "$crane" digest --full-ref=false "$1" </dev/null 2>"$scratch/said"; then return; fi
  grep -q -e MANIFEST_UNKNOWN -e NAME_UNKNOWN -e NOT_FOUND "$scratch/said" ||
    fail 3 "$1: expected an answer of the registry, got $(said)"
}

# Refuses a text that has other characters than it may, since it is written into YAML.
require_form() {
  printf '%s' "$2" | grep -Eqx "$3" || fail 2 "$1 $2: expected $4"
}

require_file() {
  if [ -n "$2" ] && [ ! -f "$2" ]; then fail 2 "$1 $2: expected a file, got none"; fi
}

read_options() {
  registry='' ca='' config='' secret='' model='' claim='' models_to='' output=kit-env.yaml
  release='' namespace=default model_values='' strategy=stable
  while [ $# -gt 0 ]; do
    case $1 in
      --help) usage; exit 0 ;;
      --) shift; break ;;
      --*=*) option=${1%%=*} value=${1#*=}; shift ;;
      --*)
        [ $# -ge 2 ] || fail 2 "$1: expected a value, got none; see install.sh --help"
        option=$1 value=$2
        shift 2 ;;
      *) fail 2 "$1: expected an option; see install.sh --help" ;;
    esac
    case $option in
      --registry) registry=${value%/} ;;
      --ca-file) ca=$value ;;
      --registry-config) config=$value ;;
      --pull-secret) secret=$value ;;
      --model) model=$value ;;
      --claim) claim=$value ;;
      --models-to) models_to=$value ;;
      --output) output=$value ;;
      --release) release=$value ;;
      --namespace) namespace=$value ;;
      --model-values) model_values=$value ;;
      --strategy) strategy=$value ;;
      *) fail 2 "$option: expected an option of install.sh; see install.sh --help" ;;
    esac
  done
  helm_options=$#
}

require_options() {
  [ -n "$registry" ] || fail 2 "--registry: expected HOST or HOST/PATH, got none; see install.sh --help"
  require_form --registry "$registry" '[A-Za-z0-9.-]+(:[0-9]+)?(/[a-z0-9][a-z0-9._-]*)*' \
    'HOST[:PORT][/PATH] in lower case, without oci://'
  for each in "--pull-secret $secret" "--claim $claim" "--release $release" "--namespace $namespace"; do
    [ -z "${each#* }" ] || require_form "${each%% *}" "${each#* }" '[a-z0-9]([a-z0-9.-]*[a-z0-9])?' 'a name of Kubernetes'
  done
  require_file --ca-file "$ca"
  require_file --registry-config "$config"
  case $config in
    '' | config.json | */config.json) ;;
    *) fail 2 "--registry-config $config: expected a file named config.json, got another name" ;;
  esac
  if [ -e "$output" ] && ! head -n 1 "$output" | grep -q "$wrote"; then
    fail 2 "--output $output: expected a file that this script wrote, or none, got another"
  fi
  [ -f "$kit/values/$strategy.yaml" ] ||
    fail 2 "--strategy $strategy: expected a file of $kit/values without .yaml, got none"
}

# Refuses a kit in which a file is not what was packed. The blobs have the content of images and models.
verify_kit() {
  [ -f "$kit/SHA256SUMS" ] || fail 1 "$kit: expected SHA256SUMS, got none; unpack the kit again"
  command -v sha256sum >/dev/null || fail 3 'sha256sum: expected it on PATH, got none'
  say "verifying $(wc -l <"$kit/SHA256SUMS") files"
  (cd "$kit" && sha256sum -c SHA256SUMS) >"$scratch/sums" 2>/dev/null || {
    bad=$(grep -v ': OK$' "$scratch/sums" | head -n 1)
    fail 1 "${bad%%: *}: expected its sha256 in SHA256SUMS, got ${bad##*: }; unpack the kit again"
  }
}

require_programs() {
  command -v helm >/dev/null || fail 3 'helm: expected it on PATH, got none; helm.sh/docs/intro/install says how'
  system=$(uname -s | tr '[:upper:]' '[:lower:]')-$(uname -m)
  crane=$kit/bin/crane-$system
  if [ ! -f "$crane" ]; then
    crane=$(command -v crane) ||
      fail 3 "crane: expected it for $system in $kit/bin or on PATH, got none; make the kit on such a machine"
  fi
  # What Go's own programs read: nothing of it is an argument.
  if [ -n "$ca" ]; then export SSL_CERT_FILE="$ca"; fi
  if [ -n "$config" ]; then
    DOCKER_CONFIG=$(cd "$(dirname "$config")" && pwd)
    export DOCKER_CONFIG HELM_REGISTRY_CONFIG="$DOCKER_CONFIG/config.json"
  fi
}

# Pushes an image to a tag, unless the tag has it already. Clean-up in registries takes images without a tag.
push_layout() {
  there=$(digest_of "$1")
  if [ "$there" != "$2" ]; then
    say "pushing $1"
    ask "$1: expected the registry to take it" "$crane" push "$kit/layouts/${2#sha256:}" "$1"
    there=$(digest_of "$1")
    [ "$there" = "$2" ] || fail 1 "$1: expected $2 after the push, got ${there:-none}"
  fi
}

# Pushes a chart with its provenance. One of the same version that is there already must have the same content.
push_chart() {
  place=$registry/charts/$1:$(printf '%s' "$2" | tr + _)
  there=$(digest_of "$place")
  if [ -z "$there" ]; then
    say "pushing $place"
    # Helm puts the file's time into the manifest, as this machine's clock would show it.
    ask "$place: expected the registry to take it" \
      env TZ=UTC helm push "$kit/charts/$1-$2.tgz" "oci://$registry/charts"
    there=$(digest_of "$place")
  fi
  ask "$place: expected its manifest" "$crane" manifest "$registry/charts/$1@$there"
  grep -q "\"$3\"" "$scratch/answer" ||
    fail 1 "$place: expected no other content under this version, got $there; give the kit a path of its own"
}

push_all() {
  while IFS="$tab" read -r kind name path digest _; do
    case $kind in
      image | model) push_layout "$registry/$path:kit-$(printf '%s' "${digest#sha256:}" | cut -c 1-12)" "$digest" ;;
      signatures) push_layout "$registry/$path:$name" "$digest" ;;
      chart) push_chart "$name" "$path" "$digest" ;;
      *) fail 1 "contents.tsv: expected image, model, signatures or chart, got $kind" ;;
    esac
  done <"$kit/contents.tsv"
}

# Unpacks each version whole or not at all; one that is there stays.
unpack_models() {
  mkdir -p "$models_to"
  while IFS="$tab" read -r kind name path digest layer; do
    [ "$kind" = model ] || continue
    rm -rf "$models_to/.kit" && mkdir "$models_to/.kit"
    say "unpacking $name to $models_to"
    tar -xpf "$kit/blobs/sha256/${layer#sha256:}" -C "$models_to/.kit"
    mkdir -p "$models_to/$name"
    for version in "$models_to/.kit/$name"/*; do
      [ -e "$models_to/$name/${version##*/}" ] || mv "$version" "$models_to/$name/"
    done
    rm -rf "$models_to/.kit"
  done <"$kit/contents.tsv"
}

# Prints the path and the digest of the first line of the contents with this kind and this name.
find_part() {
  while IFS="$tab" read -r kind name path digest _; do
    if [ "$kind" = "$1" ] && [ "$name" = "$2" ]; then
      printf '%s@%s\n' "$path" "$digest"
      return
    fi
  done <"$kit/contents.tsv"
}

choose_model() {
  models=$(grep "^model$tab" "$kit/contents.tsv" | cut -f 2 || true)
  if [ -z "$model" ]; then
    case $(printf '%s\n' "$models" | wc -l) in
      1) model=$models ;;
      *) fail 2 "--model: expected one of $(printf '%s' "$models" | tr '\n' ' '), got none" ;;
    esac
  fi
  [ -z "$model" ] || printf '%s\n' "$models" | grep -Fqx "$model" ||
    fail 2 "--model $model: expected one of $(printf '%s' "$models" | tr '\n' ' ')"
  [ -n "$model$claim" ] || fail 2 '--claim: expected the name of a claim, since the kit has no model, got none'
}

require_model_values() {
  if [ -z "$model_values" ] && [ -n "$model" ]; then model_values=$kit/values/models/$model.yaml; fi
  [ -f "$model_values" ] ||
    fail 2 "--model-values $model_values: expected a file with model.name and the tracks, got none"
}

# Prints an image of the values file, below a key of this indent.
image_lines() {
  printf '%srepository: "%s/%s"\n%sdigest: "%s"\n' "$1" "$registry" "${2%@*}" "$1" "${2#*@}"
}

print_values() {
  printf '# Where: %s, by digest. %s\n' "$registry" "$wrote"
  printf 'image:\n'
  image_lines '  ' "$(find_part image image)"
  printf 'modelStore:\n'
  if [ -n "$claim" ]; then
    printf '  persistentVolumeClaim:\n    claimName: "%s"\n  image:\n    reference: ""\n' "$claim"
  else
    printf '  image:\n    reference: "%s/%s"\n' "$registry" "$(find_part model "$model")"
  fi
  if [ -n "$secret" ]; then
    printf 'pods:\n  imagePullSecrets:\n    - "%s"\n' "$secret"
  else
    printf 'pods:\n  imagePullSecrets: []\n'
  fi
  for job in helmTest rollout; do
    part=$(find_part image "$job.image")
    if [ -n "$part" ]; then
      printf '%s:\n  image:\n' "$job"
      image_lines '    ' "$part"
    fi
  done
}

# Runs helm, or prints the line, with what the registry needs. The arguments are helm's own further options.
install_chart() {
  part=$(find_part chart tfserving-canary)
  place=$registry/charts/tfserving-canary
  digest=$(digest_of "$place:$(printf '%s' "${part%@*}" | tr + _)")
  set -- "oci://$place@$digest" --namespace "$namespace" --values "$kit/values/env/air-gapped.yaml" \
    --values "$output" --values "$model_values" --values "$kit/values/$strategy.yaml" --wait "$@"
  if [ -n "$config" ]; then set -- "$@" --registry-config "$config"; fi
  if [ -n "$ca" ]; then set -- "$@" --ca-file "$ca"; fi
  if [ -z "$release" ]; then
    printf 'helm upgrade --install RELEASE'
    for each in "$@"; do
      case $each in
        *[!A-Za-z0-9_./:@=,-]*) printf " '%s'" "$(printf '%s' "$each" | sed "s/'/'\\\\''/g")" ;;
        *) printf ' %s' "$each" ;;
      esac
    done
    printf '\n'
    return
  fi
  say "installing $release"
  helm upgrade --install "$release" "$@" </dev/null 2>"$scratch/said" || {
    if grep -q 'cluster unreachable' "$scratch/said"; then
      fail 3 "release $release: expected the cluster to answer, got $(said)"
    fi
    fail 1 "release $release: expected helm to install it, got $(said);" \
      "kubectl get events --namespace $namespace says why pods are not up"
  }
}

tab=$(printf '\t')
wrote='Written by install.sh of the offline kit.'
kit=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
read_options "$@"
shift $(($# - helm_options))
require_options
choose_model
require_model_values
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
trap 'exit 130' INT TERM
verify_kit
require_programs
push_all
if [ -n "$models_to" ]; then unpack_models; fi
print_values >"$scratch/values"
mv "$scratch/values" "$output"
say "wrote $output"
install_chart "$@"
