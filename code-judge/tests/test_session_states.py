"""Which states are needed, which places are taken, and what goes back in a folder: no process, no service."""

import asyncio
import contextlib
import errno
import os
import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from code_judge.sandbox.calls import own_number
from code_judge.sandbox.files import Content, Folder, TooMuch, weight
from code_judge.sandbox.guard import refusal
from code_judge.sessions.manager import Sessions
from code_judge.sessions.states import Head, States
from code_judge.sessions.wire import OpenSession, SessionError
from code_judge.settings import Settings


def test_a_state_goes_when_nobody_holds_it() -> None:
    states = States()
    head = Head(states, 0)
    one, two = states.new(), states.new()
    assert head.snapshot() == "s1"
    assert head.move(one) == []
    branch = Head(states, one)
    assert head.move(two) == []
    assert branch.end() == [one]
    assert head.rollback("s1") == [two]
    assert head.forget(None) == []
    assert head.end() == [0]
    assert len(states) == 0


def test_snapshots_later_than_the_one_gone_back_to_go() -> None:
    states = States()
    head = Head(states, 0)
    names = []
    for _ in range(3):
        names.append(head.snapshot())
        head.move(states.new())
    assert sorted(head.rollback(names[0])) == [1, 2, 3]
    assert (list(head.snapshots), head.find(None)) == (["s1"], "s1")
    with pytest.raises(KeyError):
        head.find("s3")


async def test_a_session_that_is_being_opened_has_its_place_until_its_caller_leaves() -> None:
    sessions = Sessions(Settings(max_sessions=1), contextlib.nullcontext)
    begun = asyncio.Event()

    async def never_opened(*_: object) -> None:
        begun.set()
        await asyncio.Event().wait()

    sessions._pool.open = never_opened
    first = asyncio.create_task(sessions.open(OpenSession()))
    await begun.wait()
    assert sessions.places == (1, 1)
    with pytest.raises(SessionError, match="1 sessions are open"):
        await sessions.open(OpenSession())
    first.cancel()
    await asyncio.wait([first])
    assert sessions.places == (0, 1)


@pytest.mark.parametrize(
    ("call", "who", "error"),
    [
        ("kill", 7, errno.ESRCH),
        ("kill", -7, errno.ESRCH),
        ("kill", -1, errno.EPERM),
        ("kill", 0, 0),
        ("kill", 8, 0),
        ("tgkill", 7, errno.ESRCH),
        ("pidfd_open", 7, errno.ESRCH),
        ("setpgid", 7, errno.EPERM),
        ("setpgid", 8, 0),
    ],
)
def test_which_signals_are_refused(call: str, who: int, error: int) -> None:
    assert refusal(own_number(call), who, {7}) == error


NAMES = st.sampled_from(["a", "b", "d", "d/a", "d/e", "d/e/a"])
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("write"), NAMES, st.binary(max_size=9)),
        st.tuples(st.just("append"), NAMES, st.binary(max_size=9)),
        st.tuples(st.just("mkdir"), NAMES, st.just(b"")),
        st.tuples(st.just("remove"), NAMES, st.just(b"")),
        st.tuples(st.just("link"), NAMES, st.just(b"")),
        st.tuples(st.just("chmod"), NAMES, st.just(b"")),
    ),
    max_size=8,
)


def do(folder: Path, step: tuple[str, str, bytes]) -> None:
    action, name, data = step
    path = folder / name
    try:
        if action == "mkdir":
            path.mkdir()
        elif action == "remove":
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        elif action == "link":
            path.symlink_to("a")
        elif action == "chmod":
            path.chmod(0o400 if path.stat().st_mode & 0o200 else 0o600, follow_symlinks=True)
        elif not path.is_symlink():
            with path.open("ab" if action == "append" else "wb") as file:
                file.write(data)
    except OSError:
        pass


def look(folder: Path) -> dict[str, object]:
    found: dict[str, object] = {}
    for path in sorted(folder.rglob("*")):
        content = os.readlink(path) if path.is_symlink() else None if path.is_dir() else path.read_bytes()
        found[str(path.relative_to(folder))] = (content, path.lstat().st_mode)
    return found


@settings(max_examples=60, deadline=None)
@given(STEPS, STEPS, STEPS)
def test_a_folder_goes_back_and_forth_between_states(tmp_path_factory, first, second, thrown_away) -> None:  # type: ignore[no-untyped-def]
    if os.geteuid() != 0:
        pytest.skip("the sandbox does this as root")
    path = tmp_path_factory.mktemp("folder")
    folder = Folder(str(path), os.getuid())
    states = []
    for steps in (first, second):
        for step in steps:
            do(path, step)
        states.append((folder.capture(), look(path)))
    for step in thrown_away:
        do(path, step)
    for listing, seen in (states[1], states[0], states[1]):
        folder.restore(listing)
        assert look(path) == seen
        assert {name: entry.content for name, entry in folder.capture().items()} == {
            name: entry.content for name, entry in listing.items()
        }


def test_who_has_a_file_open_sees_it_go_back(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("the sandbox does this as root")
    folder = Folder(str(tmp_path), os.getuid())
    (tmp_path / "a").write_text("old")
    before = folder.capture()
    with (tmp_path / "a").open() as file:
        (tmp_path / "a").write_text("new and longer")
        folder.restore(before)
        assert file.read() == "old"


def test_holes_are_not_copied_and_what_has_not_changed_is_shared(tmp_path: Path) -> None:
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(1 << 30)
        file.seek(1 << 29)
        file.write(b"data")
    folder = Folder(str(tmp_path), os.getuid())
    first = folder.capture()
    assert weight([first]) <= 1 << 16
    (tmp_path / "other").write_text("new")
    second = folder.capture()
    content = second["sparse"].content
    assert isinstance(content, Content)
    assert content == first["sparse"].content
    assert weight([first, second]) <= (1 << 17) + 3


def test_folders_that_are_too_deep_are_not_kept_and_can_be_removed(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("the sandbox does this as root")
    folder = Folder(str(tmp_path), os.getuid())
    empty = folder.capture()
    os.makedirs(tmp_path / "/".join("d" * 100))
    with pytest.raises(TooMuch, match="nested more than 32 deep"):
        folder.capture()
    folder.restore(empty)
    assert os.listdir(tmp_path) == []
