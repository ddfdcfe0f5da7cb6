#!/usr/bin/env bash
# Everything that has to hold, in a clean clone: style, types, import rules, then all tests.
#
#   tools/run-tests.sh [PYTEST-ARGUMENT...]
#
# Installs missing packages (as root or by sudo) and a virtual environment of its own (.venv-tests;
# TROVE_VENV names another place). The tests are shared by as many workers as there are cores, at
# most four; TROVE_TEST_WORKERS says another number. The last line is pytest's own; the exit code
# tells.
set -Eeuo pipefail
cd "$(dirname "$(readlink -f "$0")")/.."
# shellcheck source=tools/packages.sh
. tools/packages.sh

VENV=${TROVE_VENV:-$PWD/.venv-tests}
LOG=$(mktemp -t trove-run-tests-XXXXXX.log)
trap 'restore_policy || true; exit 130' INT TERM

check_python
mapfile -t missing < <(
    missing_packages
    command -v mariabackup >/dev/null || echo mariadb-backup
    command -v git >/dev/null || echo git
)
if [ "${#missing[@]}" -gt 0 ]; then
    echo "==> installing ${missing[*]}"
    install_packages "$LOG" "${missing[@]}"
fi
echo "==> Python environment in $VENV"
make_venv "$VENV" "$LOG" requirements.txt test-requirements.txt setup.cfg -- \
    -e . -r test-requirements.txt
PATH=$VENV/bin:$PATH
export PATH

# the processes that tests start would compile everything, each of them
unset PYTHONDONTWRITEBYTECODE

result=0
check() {
    echo "==> $*"
    "$@" || result=1
}
check ruff check .
check ruff format --check .
check mypy
check lint-imports
[ "$result" -eq 0 ] || echo "==> the checks above found something; the tests run nevertheless"

# Not exec: an interrupt still has to put apt's policy back. The output ends with pytest's summary.
cores=$(nproc)
workers=${TROVE_TEST_WORKERS:-$((cores < 4 ? cores : 4))}
# one for all workers: they must find the same tests in the same order
export PYTHONHASHSEED=${PYTHONHASHSEED:-$RANDOM}
echo "==> PYTHONHASHSEED=$PYTHONHASHSEED python -m pytest -n $workers $*"
code=0
python -m pytest -n "$workers" "$@" || code=$?
rm -f "$LOG"
[ "$code" -ne 0 ] || code=$result
exit "$code"
