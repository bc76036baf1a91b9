# shellcheck shell=bash
# Sourced from the repository's root by every script that needs Python: finds or installs uv, then the locked environment.

say() { printf '[cleaner] %s\n' "$*"; }

die() {
  printf '[cleaner] error: %s\n' "$*" >&2
  exit 1
}

# setup_environment [uv sync options]: make .venv match uv.lock. Quick when nothing changed.
setup_environment() {
  if ! command -v uv > /dev/null; then
    if [[ ! -x .venv-uv/bin/uv ]]; then
      say "uv is not installed; installing it with pip into .venv-uv"
      local python
      python=$(find_python) || die "Python 3.11 or 3.12 with the venv module is needed (apt-get install python3-venv)"
      "$python" -m venv .venv-uv
      .venv-uv/bin/python -m pip install --quiet uv
    fi
    PATH="$PWD/.venv-uv/bin:$PATH"
  fi
  local python
  python=$(find_python) || die "Python 3.11 or 3.12 is needed; found neither python3.12, python3.11 nor a python3 of these versions"
  local sync=(uv sync --quiet --frozen --no-managed-python --python "$python" "$@")
  # Compiled once here, instead of in each of the ten processes of every run.
  local install=("${sync[@]}" --compile-bytecode)
  if [[ -x .venv/bin/python ]]; then
    # Looking for what is not compiled takes a second of CPU.
    "${sync[@]}" --check 2> /dev/null || "${install[@]}"
    return
  fi
  say "installing the locked packages into .venv ($("$python" --version)); some GB, a few minutes on the first run"
  local start=$SECONDS ticker status=0
  while sleep 8 && kill -0 $$ 2> /dev/null; do say "installing, $((SECONDS - start)) s"; done &
  ticker=$!
  "${install[@]}" || status=$?
  kill "$ticker"
  return "$status"
}

# A supported interpreter: the environment's own, else the newest on PATH or under pyenv.
find_python() {
  local candidate
  for candidate in .venv/bin/python python3.12 python3.11 python3 "$HOME"/.pyenv/versions/3.1[12].*/bin/python; do
    if "$candidate" -c 'import sys, venv; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))' 2> /dev/null; then
      command -v "$candidate"
      return
    fi
  done
  return 1
}

# setup_system_packages: what the judge's tests need beyond Python, a Redis server and a C++ compiler. Installs only what
# is missing, and only as root on a system with apt-get; elsewhere it says what to install.
setup_system_packages() {
  local missing=()
  command -v redis-server > /dev/null || missing+=(redis-server)
  command -v g++ > /dev/null || missing+=(g++)
  ((${#missing[@]})) || return 0
  if [[ $(id -u) == 0 ]] && command -v apt-get > /dev/null; then
    say "installing ${missing[*]} with apt-get"
    apt-get update -qq || die "apt-get update failed"
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "${missing[@]}" > /dev/null ||
      die "apt-get could not install ${missing[*]}"
  else
    die "the tests need ${missing[*]}; install them with the system's package manager"
  fi
}

# setup_browser: Chromium with its driver for the report's tests, which are skipped without.
setup_browser() {
  command -v chromedriver > /dev/null && return
  if [[ $(id -u) == 0 ]] && command -v apt-get > /dev/null; then
    say "installing chromium and chromium-driver with apt-get"
    apt-get update -qq &&
      DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium chromium-driver > /dev/null &&
      return
  fi
  say "no Chromium with chromedriver here; the report's tests in a browser are skipped"
}
