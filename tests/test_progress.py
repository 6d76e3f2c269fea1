"""A bar on a terminal, seldom a line elsewhere."""

import subprocess
import sys
from pathlib import Path

import pytest
from progress_doubles import Clock, console

from app import progress as module
from app.cli import follow
from app.progress import LINE_EVERY_S, LineTimer, Progress

ROOT = Path(__file__).parents[1]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


def test_a_line_is_due_half_a_minute_after_the_last() -> None:
    timer = LineTimer(100.0)
    moments = [100.0, 129.9, 130.0, 130.1, 159.9, 171.0, 200.9, 201.0]
    assert [now for now in moments if timer.due(now)] == [130.0, 171.0, 201.0]
    assert LINE_EVERY_S == 30


def test_lines_come_seldom_where_there_is_no_terminal(clock: Clock) -> None:
    where, output = console(terminal=False)
    with Progress(10, "counting", where) as progress:
        for _ in range(10):
            clock.now += 8
            progress.advance()
    assert output.getvalue() == "counting: 4 of 10\ncounting: 8 of 10\n"


def test_what_is_said_is_a_line_of_its_own_in_its_own_words() -> None:
    where, output = console(terminal=False)
    with Progress(1, "counting", where) as progress:
        progress.say("error: [red]" + "x" * 200)
    assert output.getvalue() == "error: [red]" + "x" * 200 + "\n"


def test_a_terminal_gets_a_bar_and_no_lines(clock: Clock) -> None:
    where, output = console(terminal=True)
    with Progress(2, "counting", where) as progress:
        clock.now += 100
        progress.advance()
    assert "counting" in output.getvalue()
    assert "1 of 2" not in output.getvalue()


def test_nothing_is_shown_nowhere(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(2, "counting", None) as progress:
        clock.now += 100
        progress.advance()
        progress.say("something")
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("terminal", [False, True])
def test_all_that_is_followed_comes_out(clock: Clock, terminal: bool) -> None:
    where, output = console(terminal=terminal)
    came = []
    for item in follow("abc", "spelling", where):
        came.append(item)
        clock.now += 20
    assert came == ["a", "b", "c"]
    if terminal:
        assert "spelling" in output.getvalue()
    else:
        assert output.getvalue() == "spelling: 2 of 3\n"


def test_a_terminal_is_left_as_it_was_when_following_breaks_off() -> None:
    where, output = console(terminal=True)
    items = follow("abc", "spelling", where)
    assert next(items) == "a"
    assert "\x1b[?25l" in output.getvalue()  # hides the cursor
    items.close()
    assert output.getvalue().rindex("\x1b[?25h") > output.getvalue().rindex("\x1b[?25l")


def test_it_does_without_torch() -> None:
    code = "import app.progress, sys; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
