# shellcheck shell=bash
# Sourced after environment.sh and judge.sh: commands of cleaner_lab that start many runs.

# prepare_lab MODULE ARGUMENTS: install what is missing, and set `python`. Asked for help, it prints that and ends.
prepare_lab() {
  local module=$1 argument
  shift
  # PYTHON names an environment of the user's own, as in the recipes.
  [[ -n ${PYTHON:-} ]] || setup_environment --no-dev --inexact
  export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
  python=${PYTHON:-.venv/bin/python}
  for argument; do
    # Asking for help needs no judge.
    if [[ $argument == -h || $argument == --help ]]; then exec "$python" -m "$module" --help; fi
  done
}

# run_lab MODULE FOLDER ARGUMENTS: run it with a judge, whose log is below FOLDER.
run_lab() {
  local module=$1 folder=$2
  shift 2
  export MAX_EXECUTION_TIME=${MAX_EXECUTION_TIME:-2}
  start_judge "$folder/judge$$"
  # exec: the judge watches this process.
  exec "$python" -m "$module" "$@"
}
