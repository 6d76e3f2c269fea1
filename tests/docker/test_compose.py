"""The whole path in a real engine: build, serve, train, reload, refuse, stop.

In the order of the file; the tests share one server. `make docker-test` runs them.
"""

import io
import re
import socket
from datetime import datetime
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image
from stack import IMAGE, REVISION, Stack, free_port, load, say, step, until

from model import load_checkpoint

pytestmark = [pytest.mark.docker, pytest.mark.timeout(3600)]

ROOT = Path(__file__).parents[2]
DRAWN = ["background", "circle", "square", "triangle"]

TRAIN = "--dataset folder --data /data --out runs/mine --epochs 2 --crop 64x64 --batch-size 4"
TRAIN += " --backbone alexnet --head-width 8 --precision fp32"


def line_with(word: str, text: str) -> str:
    """Return the one line that has the word: an error is said once, on one line."""
    (line,) = (line for line in text.splitlines() if word in line)
    return line


def test_the_image_says_what_it_is_and_holds_no_more_than_it_needs(stack: Stack) -> None:
    image = stack.image()
    history = stack.run("docker", "history", "--format", "{{.Size}}\t{{.CreatedBy}}", IMAGE).stdout
    say(f"the image weighs {image['Size'] / 1e9:.2f} GB:")
    for line in history.splitlines():
        size, _, command = line.partition("\t")
        if size != "0B":
            say(f"  {size:>8}  {command[:90]}")
    assert image["Config"]["User"] == "10001:10001"
    labels = image["Config"]["Labels"]
    assert labels["org.opencontainers.image.revision"] == REVISION
    (version,) = re.findall(r'^version = "(.+)"', (ROOT / "pyproject.toml").read_text(), re.M)
    assert labels["org.opencontainers.image.version"] == version
    look = "for name in gcc cc make git; do command -v $name; done; "
    look += "find / -xdev -name '*.whl' -not -path '*/ensurepip/*'; "
    look += "ls -d ~root/.cache /srv/fcn/tests /srv/fcn/docs; true"
    found = stack.compose("exec", "-T", "serve", "sh", "-c", look).stdout
    assert found == ""


def test_a_change_of_code_rebuilds_nothing_but_code(stack: Stack) -> None:
    before = stack.image()["RootFS"]["Layers"]
    main = stack.folder / "app" / "main.py"
    main.write_text(main.read_text() + "\n# changed\n")
    with step("rebuild after a change of code"):
        stack.compose("build")
    after = stack.image()["RootFS"]["Layers"]
    assert after != before
    # app/ itself, and the installation of the project.
    assert after[:-2] == before[:-2]


def test_it_serves_masks(stack: Stack, photo: bytes) -> None:
    health = httpx.get(f"{stack.url}/health", trust_env=False).json()
    assert health["status"] == "ready"
    (ready,) = re.findall(r"^(\S+) INFO .* ready: (.*)$", stack.log(), re.MULTILINE)
    started = datetime.fromisoformat(stack.inspect()["State"]["StartedAt"][:26] + "+00:00")
    seconds = (datetime.fromisoformat(ready[0]) - started).total_seconds()
    say(f"  ready {seconds:.1f} s after its start: {ready[1]}")
    classes = [entry["name"] for entry in stack.model()["classes"]]
    assert len(classes) == 11
    answer = stack.post(photo, format="grey")
    assert answer.status_code == 200, answer.text
    mask = np.array(Image.open(io.BytesIO(answer.content)))
    assert mask.shape == (600, 512)
    assert mask.max() < len(classes)
    document = stack.post(photo, format="rle").json()
    assert document["image"] == {"width": 512, "height": 600}
    present = {entry["class_name"] for entry in document["masks"]}
    assert present == {classes[index] for index in np.unique(mask)}
    metrics = httpx.get(f"{stack.url}/metrics", trust_env=False).text
    (resident,) = re.findall(r"^process_resident_memory_bytes (\S+)$", metrics, re.MULTILINE)
    say(f"  it then holds {float(resident) / 2**20:.0f} MiB")


def test_it_is_confined(stack: Stack) -> None:
    status = dict(
        line.split(":", 1)
        for line in stack.python("print(open('/proc/1/status').read())").splitlines()
        if ":" in line
    )
    assert status["Uid"].split() == ["10001"] * 4
    for capabilities in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert int(status[capabilities], 16) == 0
    assert status["NoNewPrivs"].strip() == "1"
    code = (
        "import errno, pathlib\n"
        "for place in ('/srv/fcn', '/srv/fcn/runs', '/usr', '/tmp'):\n"
        "    try:\n"
        "        (pathlib.Path(place) / 'x').touch()\n"
        "        print('written')\n"
        "    except OSError as error:\n"
        "        print(errno.errorcode[error.errno])\n"
    )
    assert stack.python(code).split() == ["EROFS", "EROFS", "EROFS", "written"]
    limits = stack.inspect()["HostConfig"]
    assert limits["Memory"] == 12 * 2**30
    assert limits["PidsLimit"] == 1024
    assert [port["HostIp"] for port in limits["PortBindings"]["8000/tcp"]] == ["127.0.0.1"]


def test_training_takes_its_place_while_requests_are_answered(
    stack: Stack, small_photo: bytes
) -> None:
    before = stack.model()
    with load(stack, small_photo, clients=2) as sent:
        with step("train in the container"):
            printed = stack.compose("run", "--rm", "train", *TRAIN.split())
        say(f"  {(printed.stdout + printed.stderr).strip().splitlines()[-1]}")
        assert stack.model() == before
        with step("publish and reload"):
            stack.publish("runs/mine/best.safetensors")
            stack.reload()
            until(lambda: stack.model()["version"] != before["version"], "the new model")
        after = len(sent.answers)
        until(lambda: len(sent.answers) > after + 4, "answers of the new model")
    assert sent.unanswered == []
    assert {answer.status_code for answer in sent.answers} == {200}
    assert [entry["name"] for entry in stack.model()["classes"]] == DRAWN
    models = [answer.headers["x-model"] for answer in sent.answers]
    assert len(set(models)) == 2
    names = " then ".join(dict.fromkeys(models))
    say(f"  {len(models)} requests meanwhile, all answered, by {names}")
    last = np.array(Image.open(io.BytesIO(sent.answers[-1].content)))
    assert last.shape == (64, 96)
    assert last.max() < len(DRAWN)


def test_what_was_trained_can_be_taken_out(stack: Stack, tmp_path: Path) -> None:
    """docs/deployment.md: `docker compose cp`."""
    out = tmp_path / "best.safetensors"
    stack.compose("cp", "serve:/srv/fcn/runs/mine/best.safetensors", str(out))
    _, card = load_checkpoint(out)
    assert [entry.name for entry in card.classes] == DRAWN


def test_a_corrupt_checkpoint_leaves_the_old_one_serving(stack: Stack, small_photo: bytes) -> None:
    serving = stack.model()
    spoil = "head -c 1000 runs/mine/best.safetensors > runs/corrupt.safetensors"
    stack.compose("run", "--rm", "--entrypoint", "sh", "train", "-c", spoil)
    stack.publish("runs/corrupt.safetensors")
    stack.reload()
    until(lambda: "reload failed" in stack.log(), "the refusal")
    line = line_with("reload failed", stack.log())
    say(f"  {line}")
    assert "runs/serving.safetensors" in line
    assert stack.model() == serving
    assert stack.post(small_photo).status_code == 200

    # A server that starts now has nothing to fall back on.
    started = stack.compose("run", "--rm", "--no-deps", "serve", check=False)
    said = started.stdout + started.stderr
    say(f"  {line_with('runs/serving.safetensors', said)}")
    assert started.returncode == 2
    assert "Traceback" not in said
    stack.publish("runs/mine/best.safetensors")


@pytest.mark.parametrize("closed", ["volume", "file"])
def test_a_checkpoint_that_may_not_be_read(stack: Stack, tmp_path: Path, closed: str) -> None:
    runs = tmp_path / "runs"
    runs.mkdir()
    (runs / "mine.safetensors").write_bytes(b"anything")
    (runs / "mine.safetensors").chmod(0o600 if closed == "file" else 0o644)
    runs.chmod(0o700 if closed == "volume" else 0o755)
    mount = ["--volume", f"{runs}:/srv/fcn/runs", "--env", "FCN_CHECKPOINT=runs/mine.safetensors"]
    started = stack.run("docker", "run", "--rm", *mount, IMAGE, check=False)
    said = started.stdout + started.stderr
    line = line_with("Permission denied", said)
    say(f"  {line}")
    assert started.returncode == 2
    assert "runs/mine.safetensors" in line
    assert "Traceback" not in said


def test_training_data_that_may_not_be_read(stack: Stack, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    data.chmod(0o700)
    words = ["--dataset", "folder", "--data", "/data", "--out", "runs/never"]
    done = stack.compose("run", "--rm", "train", *words, check=False, FCN_DATA=str(data))
    said = done.stdout + done.stderr
    line = line_with("Permission denied", said)
    say(f"  {line}")
    assert done.returncode == 2
    assert "/data" in line
    assert "Traceback" not in said


def test_training_data_that_is_not_there(stack: Stack, tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    done = stack.compose("run", "--rm", "train", "--help", check=False, FCN_DATA=str(missing))
    assert done.returncode
    assert str(missing) in done.stderr
    assert not missing.exists()


def test_a_port_in_use(stack: Stack) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", free_port()))
        taken.listen()
        host, port = taken.getsockname()
        other = ["docker", "compose", "--project-name", f"{stack.name}other"]
        address = {"FCN_PUBLISH": f"{host}:{port}"}
        started = stack.run(*other, "up", "--detach", check=False, **address)
        stack.run(*other, "down", "--volumes", **address)
    say(f"  {started.stderr.strip().splitlines()[-1]}")
    assert started.returncode
    assert str(port) in started.stderr
    assert re.search("already (in use|allocated)", started.stderr)


def test_a_server_that_must_be_restarted_is(stack: Stack) -> None:
    """Docker restarts what ends, and the health check ends what cannot go on.

    The check is told of a server that says so: a stand-in on another port of the same container.
    """
    started = stack.inspect()["State"]["StartedAt"]
    code = (
        "import http.server, threading\n"
        "from app.serve.healthcheck import check\n"
        "class Dead(http.server.BaseHTTPRequestHandler):\n"
        "    def do_GET(self):\n"
        "        self.send_response(503)\n"
        "        self.end_headers()\n"
        "server = http.server.HTTPServer(('127.0.0.1', 0), Dead)\n"
        "threading.Thread(target=server.serve_forever, daemon=True).start()\n"
        "print(check(server.server_port))\n"
    )
    assert stack.python(code).strip() == "1"
    until(lambda: stack.inspect()["State"]["StartedAt"] != started, "a restart")
    until(lambda: stack.inspect()["State"]["Health"]["Status"] == "healthy", "the server")
    # And it has come back with what was published.
    assert [entry["name"] for entry in stack.model()["classes"]] == DRAWN


def test_a_stop_under_load_loses_nothing(stack: Stack, photo: bytes) -> None:
    began = len(stack.log())
    with load(stack, photo, clients=8) as sent, step("docker compose stop"):
        stack.compose("stop", "serve")
    state = stack.inspect()["State"]
    assert state["ExitCode"] == 0
    assert not state["OOMKilled"]
    # What the server says it answered has arrived, with that status.
    said = re.findall(r" id=(\w+) .* path=/segment\S* status=(\d+)", stack.log()[began:])
    arrived = {answer.headers["x-request-id"]: answer.status_code for answer in sent.answers}
    lost = [identity for identity, _ in said if identity not in arrived]
    assert lost == []
    assert {int(status) for _, status in said} <= {200, 503}
    statuses = [answer.status_code for answer in sent.answers]
    assert set(statuses) <= {200, 503}
    say(
        f"  {statuses.count(200)} masks, {statuses.count(503)} times 503, "
        f"{len(sent.unanswered)} attempts after the end"
    )
    assert statuses.count(200) >= 8
