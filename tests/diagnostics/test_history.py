"""`mpx history`."""

from __future__ import annotations

from .conftest import MakeProject
from .schemas import check


def test_the_last_messages(make_project: MakeProject) -> None:
    project = make_project(history={"room-*": {"size": 10, "ttl": 60}})
    for n in range(3):
        project.run("send", "room-1", f'{{"type": "x", "n": {n}}}')
    told = project.json("history", "room-1", "--limit", "2")
    check("history", told)
    assert [message["n"] for message in told["messages"]] == [1, 2]
    assert told["complete"] is False
    position = told["messages"][0]["mpx_position"]
    told = project.json("history", "room-1", "--since", position)
    assert [message["n"] for message in told["messages"]] == [2]
    assert told["complete"] is True
    done = project.run("history", "room-1", "--limit", "1")
    assert done.stdout == f'{told["position"]}  {{"type": "x", "n": 2}}\n'
    assert "messages are missing" in done.stderr
    assert "none" not in done.stderr
    assert f"behind {told['position']}" in done.stderr
    done = project.run("history", "room-2")
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr.startswith("There are none.\nThe next are those behind ")


def test_what_it_cannot_show(make_project: MakeProject) -> None:
    project = make_project(history={"room-*": {"size": 10, "ttl": 60}})
    for group, text in (("lobby", "has no history"), ("no group", "'no group'")):
        done = project.run("history", group)
        assert (done.returncode, done.stdout) == (2, "")
        assert text in done.stderr
        assert len(done.stderr.splitlines()) == 1
