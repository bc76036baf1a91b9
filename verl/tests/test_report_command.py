"""`python -m verl_cleaner.report`: what it says, what it refuses, and that it follows a run."""

import json
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from report_data import write_evaluation, write_run

from verl_cleaner import inspect
from verl_cleaner.report import chat, chat_files, page, serve
from verl_cleaner.report.__main__ import main
from verl_cleaner.report.write import MAX_TRAJECTORIES

DOCS = Path(__file__).parents[2] / "docs" / "report.md"


def test_it_writes_the_page_and_says_what_is_missing(tmp_path, capsys):
    write_run(tmp_path / "run")
    (tmp_path / "run" / "metrics.jsonl").unlink()
    assert main([str(tmp_path / "run"), "-o", str(tmp_path / "new" / "report.html")]) == 0
    said = capsys.readouterr()
    assert f"{tmp_path}/new/report.html: 0." in said.out
    assert "warning: run: no metrics.jsonl" in said.err
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["report.html"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "nowhere is no folder"),
        (["."], "holds no metrics.jsonl and no dumps"),
        ([".", "--trajectories", "0"], "--trajectories must be at least 1, got 0"),
        ([".", "--watch", "--interval", "0"], "--interval must be at least 1, got 0"),
        (["nowhere", "--watch"], "nowhere is no folder"),
    ],
)
def test_what_it_refuses(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        main(arguments)
    assert message in capsys.readouterr().err


def test_watch_follows_a_run_from_its_beginning_to_ctrl_c(tmp_path):
    run, out = tmp_path / "run", tmp_path / "report.html"
    run.mkdir()
    command = [sys.executable, "-m", "verl_cleaner.report", str(run), "-o", str(out), "--watch", "--interval", "1"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert "waiting" in process.stdout.readline()
        write_run(tmp_path / "made")
        (tmp_path / "made" / "rollouts").rename(run / "rollouts")
        assert "report.html" in process.stdout.readline()
        assert '"refresh": 1' in out.read_text()
        (tmp_path / "made" / "metrics.jsonl").rename(run / "metrics.jsonl")
        assert "report.html" in process.stdout.readline()
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.communicate()
    page = out.read_text()
    assert '"refresh": 0' in page
    assert "Training accuracy" in page


def test_the_documented_commands_are_understood(tmp_path, capsys, monkeypatch):
    """Also the message about a broken row, which the page quotes."""
    monkeypatch.chdir(tmp_path)
    for name in ("outputs/a", "outputs/b", "outputs/quickstart/TIME", "outputs/grid/plain", "outputs/grid/cleaner"):
        write_run(tmp_path / name)
    rows = [
        {"prompt": "2 + 2?", "completion": "5", "reward": 0},
        {"messages": [{"role": "user"}, {"role": "assitant"}]},
    ]
    (tmp_path / "rollouts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in (*rows[:1], rows[0], rows[1])))
    commands = re.findall(r"^python -m verl_cleaner\.(report|inspect) (.*)$", DOCS.read_text(), re.MULTILINE)
    assert [module for module, _ in commands] == ["report"] * 5 + ["inspect"] * 4 + ["report"]
    for module, arguments in commands:
        if "--watch" not in arguments and "--serve" not in arguments:
            status = (main if module == "report" else inspect.main)(shlex.split(arguments))
            assert status == 0 or "gcd" in arguments
    said = capsys.readouterr().err
    for quoted in re.findall(r"`(rollouts\.jsonl: line .*)`\.", DOCS.read_text()):
        begin, end = quoted.split("…")
        assert begin in said
        assert end in said
    assert (tmp_path / "one.html").stat().st_size < 120_000
    assert (tmp_path / "rollouts.html").is_file()


def test_the_documented_keys_of_a_row_are_read():
    """In the section on rollouts of others."""
    section = DOCS.read_text().split("## Rollouts of others")[1].split("\n## ")[0]
    keys = {*chat.LISTS, *chat.ANSWERS, "prompt"}
    assert keys <= set(re.findall(r"`(\w+)`", section))
    named = re.search(r"a row may have\n(.*?) of the prompt", section, re.DOTALL)[1]
    known = {name for names in chat_files.NUMBERS.values() for name in names}
    assert set(re.findall(r"`(\w+)`", named)) <= known | {*chat_files.TRUTHS, *chat_files.STEPS, *chat_files.IDS}


def test_the_documented_defaults_of_serving():
    help_text = " ".join(subprocess.check_output(
        [sys.executable, "-m", "verl_cleaner.report", "--help"], text=True).split())  # fmt: skip
    text = DOCS.read_text()
    assert "http://127.0.0.1:8642" in text
    for default in ("127.0.0.1", "8642", "20"):
        assert f"(default: {default}" in help_text
    assert "(20 s)" in text
    assert "at most a fifth of the time" in text.replace("\n", " ")
    assert serve._SHARE == 5


def test_evaluations_are_named_or_found(tmp_path, capsys):
    write_run(tmp_path / "run")
    write_evaluation(tmp_path / "run" / "evaluation")
    write_evaluation(tmp_path / "other")
    out = tmp_path / "report.html"
    assert main([str(tmp_path / "run"), "-o", str(out), "--evaluation", str(tmp_path / "other")]) == 0
    assert out.read_text().count('"suite": "aime2025"') == 2
    with pytest.raises(SystemExit):
        main([str(tmp_path / "run"), "-o", str(out), "--evaluation", str(tmp_path)])
    assert "is no report of an evaluation" in capsys.readouterr().err


def test_the_documented_limits():
    text = DOCS.read_text()
    assert f"At most {MAX_TRAJECTORIES:,} trajectories" in text
    assert f"over {page.MAX_TEXT:,} characters" in text
    assert page.MAX_BYTES < 10e6


def test_the_pictures_are_there():
    pictures = re.findall(r'(?:src|srcset)="([^"]+)"|!\[[^]]*\]\(([^)]+)\)', DOCS.read_text())
    assert len(pictures) == 8
    for one, other in pictures:
        assert (DOCS.parent / (one or other)).stat().st_size < 150_000
