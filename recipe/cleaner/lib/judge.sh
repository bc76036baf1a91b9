# shellcheck shell=bash
# Sourced by the recipes after environment.sh: a judge for one run.

# start_judge DIR: serve code-judge on a free local port, its log and address in DIR, until this script ends, and set
# CODE_JUDGE_URL. Where CODE_JUDGE_URL is set already, that judge is used instead.
start_judge() {
  if [[ -n ${CODE_JUDGE_URL:-} ]]; then
    say "using the judge at $CODE_JUDGE_URL"
    return
  fi
  local folder=$1 tries
  mkdir -p "$folder"
  rm -f "$folder/judge.url"
  # --parent-pid: the judge ends with this script however that ends.
  "${PYTHON:-.venv/bin/python}" -m code_judge.cli serve --port 0 --port-file "$folder/judge.url" --parent-pid $$ \
    > "$folder/judge.log" 2>&1 &
  local judge=$!
  for ((tries = 0; tries < 300; tries++)); do
    [[ -s $folder/judge.url ]] && break
    kill -0 "$judge" 2> /dev/null || break
    sleep 0.1
  done
  [[ -s $folder/judge.url ]] || die "code-judge did not start; see $folder/judge.log: $(tail -n 1 "$folder/judge.log")"
  CODE_JUDGE_URL=$(< "$folder/judge.url")
  export CODE_JUDGE_URL
  say "code-judge serves on $CODE_JUDGE_URL (log: $folder/judge.log)"
}
