# Sourced by the other scripts: a virtual environment of the project's own, made when it is missing or outdated.
# shellcheck shell=bash

ROOT="$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)"

fail() {
  printf '%s: %s\n' "$(basename -- "$0")" "$1" >&2
  exit "${2:-1}"
}

# The first Python that is new enough and can make environments. It is run, for a name on the PATH may be a stub.
find_python() {
  local name new_enough=''
  for name in python3.13 python3.12 python3.11 python3; do
    "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 || continue
    new_enough="$name"
    "$name" -c 'import ensurepip, venv' >/dev/null 2>&1 || continue
    printf '%s\n' "$name"
    return 0
  done
  [[ -z "$new_enough" ]] || fail "$new_enough has no module venv: install it (on Debian and Ubuntu: apt-get install python3-venv)"
  fail 'Python 3.11 or later is needed, and none was found as python3.13, python3.12, python3.11 or python3'
}

# What an environment was made from: where it is, and every file that is installed.
fingerprint() {
  printf '%s\n' "$ROOT"
  cd -- "$ROOT"
  find pyproject.toml README.md LICENSE src -type f ! -path '*/__pycache__/*' -exec cksum {} + | LC_ALL=C sort
}

# environment NAME EXTRAS [PIP_ARGUMENT…]: make .venv-NAME with the project (built, not its source tree) and its
# extras; say nothing when it is there already. Sets PYTHON.
environment() {
  local name="$1" extras="$2" venv="$ROOT/.venv-$1" stamp="$ROOT/.venv-$1/missive-stamp" python wanted
  shift 2
  PYTHON="$venv/bin/python"
  wanted="$(fingerprint)"
  if [[ -f "$stamp" && "$(cat -- "$stamp")" == "$wanted" ]] && "$PYTHON" -c '' 2>/dev/null; then
    return 0
  fi
  python="$(find_python)"
  printf 'Installing Missive into .venv-%s/ …\n\n' "$name"
  "$python" -m venv --clear "$venv" || fail "the virtual environment .venv-$name/ could not be made (see above)"
  "$PYTHON" -m pip install --quiet --disable-pip-version-check --upgrade pip
  (cd -- "$ROOT" && "$PYTHON" -m pip install --quiet "$ROOT$extras" "$@") \
    || fail 'the installation failed (see above); its dependencies come over the network'
  printf '%s\n' "$wanted" >"$stamp"
}
