# Functions that create the virtual environments of the other scripts. Source this file; do not run it.
# shellcheck shell=bash

ROOT="$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)"

fail() {
  printf '%s: %s\n' "$(basename -- "$0")" "$1" >&2
  exit "${2:-1}"
}

# Print the command of Python $1, such as 3.13. Return 1 if it is neither on PATH nor installed by pyenv. Each candidate
# is started, because a name on PATH may be a stub.
python_command() {
  local candidate
  for candidate in "python$1" "${PYENV_ROOT:-$HOME/.pyenv}/versions/$1".*/bin/python "${PYENV_ROOT:-$HOME/.pyenv}/versions/$1/bin/python"; do
    if "$candidate" -c "import sys; sys.exit('%d.%d' % sys.version_info[:2] != '$1')" >/dev/null 2>&1; then
      printf '%s\n' "$candidate"
      return 0
    fi
  done
  return 1
}

# Print the command of a Python that is new enough and can create environments.
default_python() {
  local name new_enough=''
  for name in python3.13 python3.12 python3.11 python3; do
    "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 || continue
    new_enough="$name"
    "$name" -c 'import ensurepip, venv' >/dev/null 2>&1 || continue
    printf '%s\n' "$name"
    return 0
  done
  [[ -z "$new_enough" ]] || fail "$new_enough has no module venv. Install it (on Debian and Ubuntu: apt-get install python3-venv)"
  fail 'Python 3.11 or later is required. Tried python3.13, python3.12, python3.11 and python3'
}

# Print the inputs of an environment. A change of any of them creates the environment anew; the source files are not
# among them, because the installation is editable.
inputs() {
  "$PYTHON" -c 'import sys; print(sys.version)' || return 1
  printf '%s\n' "$ROOT"
  cksum "$ROOT/pyproject.toml" "$ROOT/requirements/dev.txt"
}

# environment NAME INSTALL [PYTHON]: create .venv-NAME with the function INSTALL, unless it is up to date. Set PYTHON to
# its interpreter.
environment() {
  local name="$1" install="$2" python="${3:-}" stamp="$ROOT/.venv-$1/missive-stamp"
  PYTHON="$ROOT/.venv-$name/bin/python"
  if [[ -f "$stamp" ]] && [[ "$(inputs 2>/dev/null)" == "$(cat -- "$stamp")" ]]; then
    return 0
  fi
  [[ -n "$python" ]] || python="$(default_python)"
  printf 'Creating the environment .venv-%s/ …\n\n' "$name"
  "$python" -m venv --clear "$ROOT/.venv-$name" || fail "cannot create the virtual environment .venv-$name/ (see above)"
  "$install" || fail "cannot install into .venv-$name/ (see above). The installation needs a network"
  inputs >"$stamp"
}

pip_install() {
  "$PYTHON" -m pip install --quiet --disable-pip-version-check "$@"
}

# The project with its mandatory dependencies, in the newest versions.
install_project() {
  pip_install --editable "$ROOT"
}

# The project, all extras and the development tools, in the versions that requirements/dev.txt pins with hashes.
install_development() {
  pip_install --require-hashes --requirement "$ROOT/requirements/dev.txt" \
    && pip_install --no-deps --no-build-isolation --editable "$ROOT"
}

# test_environment [VERSION]: the environment for development, with the default Python or with Python VERSION.
test_environment() {
  local version="${1:-}" python
  if [[ -z "$version" ]]; then
    environment test install_development
  else
    [[ "$version" =~ ^3\.1[1-4]$ ]] || fail "Python $version is not supported: choose 3.11, 3.12, 3.13 or 3.14" 2
    python="$(python_command "$version")" \
      || fail "Python $version was not found on PATH or in ${PYENV_ROOT:-$HOME/.pyenv}/versions"
    environment "test-$version" install_development "$python"
  fi
}
