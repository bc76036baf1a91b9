"""The inspector in the terminal: filters, repairs, and hostile text that stays text."""

import pytest
from report_data import HOSTILE, write_run

from verl_cleaner import inspect
from verl_cleaner.inspect import main, visible


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    write_run(folder / "baseline", rollback=False)
    write_run(folder / "cleaner", extra=HOSTILE[:5])
    return folder


@pytest.fixture(autouse=True)
def wide(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")


@pytest.mark.parametrize(
    ("filters", "count"),
    [
        ([], 96),
        (["--repaired"], 24),
        (["--no-repaired", "--step", "2"], 24),
        (["--kind", "NameError", "--step", "1"], 8),
        (["--kind", "any"], 24),
        (["--kind", "none"], 72),
        (["--kind", "timeout"], 0),
        (["--text", "PRINT(302 + 1)"], 2),
        (["--text", "name 'x' is not defined", "--rollout", "2"], 12),
        (["--split", "validation"], 0),
        (["--prompt", "00020001"], 8),
    ],
)
def test_filters(runs, capsys, filters, count):
    assert main([str(runs), *filters, "--limit", "1000"]) == (0 if count else 1)
    lines = capsys.readouterr().out.splitlines()
    assert sum("How much is" in line for line in lines) == count


def test_right_and_wrong_are_everything(runs, capsys):
    counts = []
    for reward in ("right", "wrong"):
        main([str(runs), "--reward", reward, "--limit", "1000"])
        counts.append(sum("How much is" in line for line in capsys.readouterr().out.splitlines()))
    assert sum(counts) == 96
    assert min(counts) > 20


def test_one_trajectory_is_shown_whole_with_its_repair(runs, capsys):
    assert main([str(runs), "--prompt", "00020001", "--rollout", "0", "--repaired", "--color", "never"]) == 0
    text = capsys.readouterr().out
    assert "cleaner · train step 2" in text
    assert "How much is 201 + x?" in text
    assert "retry 1: NameError -> overwritten · similarity 0.90 (γ 0.5) · tool_call_only" in text
    assert "! NameError at line 1: name 'x' is not defined" in text
    assert "  − prnt(201 + 0)" in text
    assert "  + print(201 + 0)" in text
    assert text.index("retry 1") < text.index("response")
    assert "\x1b" not in text


def test_hostile_text_never_reaches_the_terminal(runs, capsys):
    assert main([str(runs), "--step", "1", "--show", "--limit", "100", "--color", "never"]) == 0
    text = capsys.readouterr().out
    assert "␛[31mred␛[0m" in text
    assert "<U+202E>" in text
    assert "<U+009B>31m" in text
    assert not {char for char in text if inspect._CONTROL.match(char)}
    assert main([str(runs), "--step", "1", "--show", "--limit", "100", "--color", "always"]) == 0
    colored = capsys.readouterr().out
    assert "\x1b[" in colored
    assert "\x1b]0;" not in colored
    assert "\x1b[31mred" not in colored


def test_visible_leaves_ordinary_text():
    assert visible("héllo\n\tשלום 東京 🎉 [bold]x[/bold]") == "héllo\n\tשלום 東京 🎉 [bold]x[/bold]"


def test_what_cannot_be_shown(tmp_path, capsys):
    for arguments, message in (
        ([str(tmp_path)], "holds no metrics.jsonl"),
        ([str(tmp_path), "--limit", "0"], "--limit"),
    ):
        with pytest.raises(SystemExit):
            main(arguments)
        assert message in capsys.readouterr().err


def test_more_than_the_limit_is_said(runs, capsys):
    main([str(runs), "--limit", "3"])
    assert "3 of 96" in capsys.readouterr().out
