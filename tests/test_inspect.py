import base64
import dataclasses
import http.client
import io
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from conftest import make_agent, small_config
from PIL import Image

import alda
from alda.analysis import inspector
from alda.analysis.inspector import Session, inspect_run, png, serving, stored_values
from alda.analysis.paired_rollouts import twins
from alda.cli import main
from alda.config import Config, EnvConfig
from alda.envs.backgrounds.data import Data
from alda.errors import UserError
from alda.policy import Policy
from alda.training.trainer import train
from alda.types import EnvSpec

STEPS = 9  # of an episode
SPEC = EnvSpec(frames=3, image_size=64, action_dim=1)
ENV = EnvConfig(task="cartpole_balance", episode_length=4 * STEPS, profile="fast")
SHIFTED = "distracting_color:0.3"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    config = Config(
        agent=small_config("alda"),
        env=ENV,
        run_dir=tmp_path_factory.mktemp("inspect") / "run",
        steps=6,
        eval_every=100,
        eval_episodes=1,
        eval_workers=0,
        video_every=0,
        shifts=("train",),
    )
    return train(config)


@pytest.fixture(scope="module")
def server(run):
    with serving(lambda: Session(alda.load(run), seed=4), port=0) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def seen(run):
    """The same episode by the function that other commands use: a policy, and the steps in both worlds."""
    policy = alda.load(run)
    return policy, list(twins(policy, ("train", SHIFTED), [4]))


def request(server, method, path, body=b"", **headers):
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=60)
    connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
    response = connection.getresponse()
    content = response.read()
    connection.close()
    return response, content


def ask(server, question, **words):
    response, content = request(server, "POST", f"/api/{question}", json.dumps(words).encode())
    return response.status, json.loads(content)


def play(server, world):
    while not (answer := ask(server, "play", world=world)[1])["done"]:
        assert answer["played"] <= STEPS
    return answer


def pixels(address):
    with Image.open(io.BytesIO(base64.b64decode(address.removeprefix("data:image/png;base64,")))) as image:
        return np.asarray(image).transpose(2, 0, 1)


# the session, asked over HTTP


def test_what_is_told_of_a_run(server):
    status, about = ask(server, "about")
    assert status == 200
    assert {name: about[name] for name in ("method", "task", "step", "decodes")} == {
        "method": "alda",
        "task": "cartpole_balance",
        "step": 6,
        "decodes": True,
    }
    worlds = {world["name"]: world for world in about["worlds"]}
    assert list(worlds) == [name for name in alda.envs.SHIFTS if name != "train"]
    assert worlds["color_hard"]["strengths"] == []
    assert worlds["distracting_cs"]["strengths"][0] == 0.025


@pytest.mark.parametrize("world", ["train", SHIFTED])
def test_states_are_those_of_twins_and_answers_those_of_the_agent(server, seen, world):
    play(server, "train")
    answer = play(server, world)
    assert (answer["played"], answer["length"]) == (STEPS, STEPS)
    policy, steps = seen
    column = ("train", SHIFTED).index(world)
    assert len(steps) == STEPS
    for i, thumbnail in enumerate(np.split(pixels(answer["strip"]), 16, axis=2)):
        np.testing.assert_array_equal(thumbnail, steps[round(i * (STEPS - 1) / 15)].seen[column][-1])
    for t in (0, 1, 5, STEPS - 1):
        obs = steps[t].seen[column]
        status, state = ask(server, "state", world=world, time=t)
        assert status == 200
        np.testing.assert_array_equal(pixels(state["frame"]), obs[-1])
        np.testing.assert_array_equal(pixels(state["reconstruction"]), policy.reconstruct(obs))
        action, batch = policy.act(obs), torch.from_numpy(obs)[None]
        assert state["action"] == action.tolist()
        if world == "train":
            assert state["action"] == steps[t].action.tolist()
        with torch.no_grad():
            q = policy.agent.critic(policy.agent.representation(batch), torch.from_numpy(action)[None])
        assert state["q"] == min(q[0].item(), q[1].item())
        found = policy.agent.latents(batch)
        assert state["encoded"] == found.encoded[0].tolist()
        assert state["code"] == found.code[0].tolist()
        assert state["outside"] == [not -1 <= x <= 1 for x in state["encoded"]]


def test_the_shifted_world_is_another(server):
    play(server, "train")
    play(server, SHIFTED)
    clean, shifted = (ask(server, "state", world=world, time=5)[1] for world in ("train", SHIFTED))
    assert clean["frame"] != shifted["frame"]
    assert clean["encoded"] != shifted["encoded"]


def test_sliders_span_the_codebook_and_show_its_values(server, seen):
    play(server, "train")
    status, latents = ask(server, "latents")
    assert status == 200
    values = seen[0].agent.representation.memory.values
    assert latents["stored"] == values.tolist()
    assert latents["low"] == [min(row) for row in values.tolist()]
    assert latents["high"] == [max(row) for row in values.tolist()]
    assert latents["retrieves"]


def test_a_code_is_decoded_as_the_agent_does(server, seen):
    play(server, "train")
    agent = seen[0].agent
    code = ask(server, "state", world="train", time=3)[1]["code"]
    state = ask(server, "state", world="train", time=3)[1]
    assert ask(server, "decode", code=code) == (200, {"image": state["reconstruction"]})
    code[2] += 0.7
    with torch.no_grad():
        truth = (agent.decode(torch.tensor([code]))[0] * 255).round().to(torch.uint8).numpy()
    status, answer = ask(server, "decode", code=code)
    assert status == 200
    np.testing.assert_array_equal(pixels(answer["image"]), truth)
    assert answer["image"] != state["reconstruction"]


@pytest.mark.parametrize(
    ("question", "body", "sentence"),
    [
        ("about", b"", "a question is a JSON object"),
        ("about", b"[" * 50_000, "a question is a JSON object"),
        ("about", b'{"world": "train"}', "about takes a JSON object with no words"),
        ("about", b"[]", "about takes a JSON object with no words"),
        ("about", b" " * 100_000, "less than 100000 bytes"),
        ("play", b"{}", "play takes a JSON object with world (str)"),
        ("play", b'{"world": 3}', "world (str)"),
        ("play", b'{"world": "colour_hard"}', "did you mean 'color_hard'"),
        ("play", b'{"world": "color_hard:0.1"}', "takes neither an intensity"),
        ("play", b'{"world": "distracting_cs:7"}', "at most 1, not '7'"),
        ("play", b'{"world": "../../etc/passwd"}', "unknown shift"),
        ("state", b'{"world": "train", "time": true}', "time (int)"),
        ("state", b'{"world": "train", "time": 1.5}', "time (int)"),
        ("state", b'{"world": "train", "time": -1}', "there is no step -1"),
        ("state", b'{"world": "train", "time": 9}', "9 steps are played; there is no step 9"),
        ("state", b'{"world": "video_hard", "time": 0}', "0 steps are played; there is no step 0"),
        ("decode", b'{"code": [0, 1]}', "a code is 12 numbers"),
        ("decode", b'{"code": [0,0,0,0,0,0,0,0,0,0,0,"0"]}', "a code is 12 numbers"),
        ("decode", b'{"code": [0,0,0,0,0,0,0,0,0,0,0,true]}', "a code is 12 numbers"),
        ("decode", b'{"code": [0,0,0,0,0,0,0,0,0,0,0,NaN]}', "a code is 12 numbers"),
        ("decode", b'{"code": [0,0,0,0,0,0,0,0,0,0,0,1e300]}', "a code is 12 numbers"),
        ("decode", b'{"code": 0}', "code (list)"),
    ],
)
def test_bad_questions_get_one_sentence(server, question, body, sentence):
    play(server, "train")
    response, content = request(server, "POST", f"/api/{question}", body)
    assert response.status == 400
    assert sentence in json.loads(content)["error"]


def test_a_question_without_its_length_is_refused(server):
    with socket.create_connection(("127.0.0.1", server.server_port), timeout=10) as connection:
        connection.sendall(b"POST /api/about HTTP/1.0\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n{}")
        assert b"400" in connection.recv(100)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "localhost:9000"}, 200),  # a forwarded port
        ({"Host": "evil.example"}, 403),
        ({"Host": "127.0.0.1.evil.example:8000"}, 403),
        ({"Host": "evil.example:8000"}, 403),
        ({"Host": "["}, 403),
        ({"Host": ""}, 403),
        ({"Host": "localhost:9000", "Origin": "http://localhost:9000"}, 200),
        ({"Host": "localhost:9000", "Origin": "http://localhost:9001"}, 403),
        ({"Host": "localhost:9000", "Origin": "http://evil.example"}, 403),
        ({"Host": "localhost:9000", "Origin": "null"}, 403),
    ],
)
def test_only_pages_of_this_machine_get_answers(server, headers, status):
    for method, path, body in (("GET", "/", b""), ("POST", "/api/about", b"{}")):
        response, _ = request(server, method, path, body, **headers)
        assert response.status == status
        assert response.getheader("Access-Control-Allow-Origin") is None


def test_there_is_nothing_to_get_but_the_page(server):
    assert server.server_address[0] == "127.0.0.1"
    response, content = request(server, "GET", "/")
    assert response.status == 200
    assert content.startswith(b"<!doctype html>")
    assert b"http://" not in content  # nothing comes from elsewhere
    assert b"https://" not in content
    for method, path in (
        ("GET", "/inspector.html"),
        ("GET", "/../inspector.py"),
        ("GET", "//etc/passwd"),
        ("GET", "/api/"),
    ):
        assert request(server, method, path)[0].status == 404
    for path in ("/about", "/api/close", "/api/_begin", "/api/__init__"):
        assert request(server, "POST", path, b"{}")[0].status == 404


# the session alone


def session_of(name, **settings):
    agent = make_agent(name, spec=SPEC)
    return Session(Policy(agent, Config(**{"agent": agent.config, "env": ENV, **settings}), SPEC, 0), seed=0)


def test_what_failed_is_said_and_begun_anew(server, monkeypatch, capfd):
    def fails(*_):
        raise ValueError("the simulator is lost")
        yield

    play(server, "train")
    with monkeypatch.context() as patch:
        patch.setattr(inspector, "twins", fails)
        patch.setattr(server.session, "_episodes", {})
        for _ in range(2):
            assert ask(server, "play", world="train") == (500, {"error": "ValueError: the simulator is lost"})
    assert "the simulator is lost" in capfd.readouterr().err
    assert play(server, "train")["played"] == STEPS


def test_other_worlds_wait_for_the_policy():
    session = session_of("sac")
    with pytest.raises(UserError, match="has to be played to its end first"):
        session.play("color_hard")
    with pytest.raises(UserError, match="has to be played to its end first"):
        session.latents()


def test_a_world_without_its_data_is_refused_and_the_others_go_on(tmp_path):
    env = dataclasses.replace(ENV, episode_length=4)
    session = session_of("sac", env=env, data=Data(color_table=tmp_path / "nonesuch.json"))
    while not session.play("train")["done"]:
        pass
    with pytest.raises(UserError, match="nonesuch"):
        session.play("color_hard")
    assert session.play("video_easy")["length"] == 1
    session.close()


def test_a_method_without_a_decoder_is_inspected_without_pictures(monkeypatch):
    monkeypatch.setattr(inspector, "_MOMENT", 60.0)
    session = session_of("sac")
    assert not session.about()["decodes"]
    session.play("train")
    latents, state = session.latents(), session.state("train", 2)
    assert latents["stored"] is state["reconstruction"] is state["outside"] is None
    assert not latents["retrieves"]
    codes = np.array([session.state("train", t)["code"] for t in range(STEPS)])
    moving = np.ptp(codes, axis=0) > 1e-6
    np.testing.assert_allclose(np.array(latents["low"])[moving], codes.min(0)[moving], atol=1e-5)
    np.testing.assert_allclose(np.array(latents["high"])[moving], codes.max(0)[moving], atol=1e-5)
    assert (np.array(latents["high"]) > np.array(latents["low"])).all()
    with pytest.raises(UserError, match="sac has no decoder"):
        session.decode([0.0] * session.num_latents)
    session.close()


@pytest.mark.parametrize(("name", "decodes"), [("sac_ae", True), ("darla", True), ("drq", False), ("svea", False)])
def test_which_methods_decode(name, decodes):
    assert session_of(name).decodes == decodes


def test_a_method_without_latents_is_refused():
    with pytest.raises(UserError, match="repo has no latents of single frames, so there is nothing to inspect"):
        session_of("repo")


def test_stored_values_are_those_that_codes_can_take():
    agent = make_agent("alda", latent="fsq", num_values=5)
    values = stored_values(agent)
    assert values.tolist() == [[-1.0, -0.5, 0.0, 0.5, 1.0]] * 12
    code = agent.representation.memory(torch.linspace(-2, 2, 99)[:, None].repeat(1, 12)).policy
    assert set(code.flatten().tolist()) == set(values[0].tolist())
    for latent in ("clamp", "identity"):
        assert stored_values(make_agent("alda", latent=latent)) is None


@pytest.mark.parametrize("wrong", [{"port": 80}, {"port": 70_000}, {"seed": -1}])
def test_wrong_options_are_refused(tmp_path, wrong):
    with pytest.raises(UserError, match="--port must be 0"):
        inspect_run(tmp_path, **wrong)


def test_a_port_that_is_taken_is_refused():
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with (
            pytest.raises(UserError, match=f"port {port}: Address already in use; name another"),
            serving(lambda: session_of("sac"), port),
        ):
            pass


def test_the_command_opens_the_page_and_serves_until_it_is_interrupted(heard, run, monkeypatch, capsys):
    found = []

    def visit(address):
        try:
            connection = http.client.HTTPConnection(address.removeprefix("http://"), timeout=60)
            connection.request("POST", "/api/about", b"{}")
            found.append(connection.getresponse().status)
            connection.close()
        finally:
            os.kill(os.getpid(), signal.SIGINT)

    visitors = []

    def open_page(address):
        assert f"is shown at {address}" in capsys.readouterr().out
        visitors.append(threading.Thread(target=visit, args=(address,)))
        visitors[0].start()

    monkeypatch.setattr("webbrowser.open", open_page)
    monkeypatch.setattr("signal.signal", lambda *_: None)
    monkeypatch.setattr(sys, "argv", ["alda", "inspect", str(run), "--port", "0"])
    with pytest.raises(SystemExit) as stopped:
        main()
    visitors[0].join()
    assert found == [200]
    assert stopped.value.code == 130


# the page, in a browser


class Browser:
    """A tab of a browser without a screen, by the DevTools protocol over two pipes. Calls are its commands."""

    def __init__(self, send, receive):
        self.send, self.receive = send, receive
        self.read, self.number, self.events, self.tab = b"", 0, [], {}
        (page,) = [t for t in self("Target.getTargets")["targetInfos"] if t["type"] == "page"]
        self.tab = {"sessionId": self("Target.attachToTarget", targetId=page["targetId"], flatten=True)["sessionId"]}
        for domain in ("Page", "Runtime", "Log", "Network"):
            self(f"{domain}.enable")

    def __call__(self, command, **params):
        self.number += 1
        message = {"id": self.number, "method": command, "params": params, **self.tab}
        os.write(self.send, json.dumps(message).encode() + b"\0")
        while True:
            while b"\0" not in self.read:
                assert select.select([self.receive], [], [], 60)[0], f"the browser does not answer {command}"
                self.read += os.read(self.receive, 1 << 20)
            message, _, self.read = self.read.partition(b"\0")
            answer = json.loads(message)
            if answer.get("id") == self.number:
                return answer["result"]
            self.events.append(answer)

    def value(self, expression):
        answer = self("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def wait_for(self, expression, wanted=True):
        end = time.monotonic() + 60
        while self.value(expression) != wanted:
            assert time.monotonic() < end, (
                f"{expression} never came true; the page says {self.value('news.textContent')}"
            )
            time.sleep(0.03)

    def middle(self, expression):
        """Where an element is, in pixels: its middle, and half its width."""
        box = self.value(f"(({expression}).getBoundingClientRect()).toJSON()")
        return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2, box["width"] / 2

    def mouse(self, kind, x, y):
        self("Input.dispatchMouseEvent", type=f"mouse{kind}", x=x, y=y, button="left", buttons=1, clickCount=1)

    def click(self, expression):
        x, y, _ = self.middle(expression)
        self.mouse("Pressed", x, y)
        self.mouse("Released", x, y)

    def press(self, key):
        for kind in ("rawKeyDown", "keyUp"):
            self("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode={"ArrowRight": 39}[key])


NUMBERED = """
import fcntl, os, sys
ends = [fcntl.fcntl(int(end), fcntl.F_DUPFD, 10) for end in sys.argv[1:3]]
for end, number in zip(ends, (3, 4)):  # under which the browser expects them
    os.dup2(end, number)
os.execvp(sys.argv[3], sys.argv[3:])
"""


@contextmanager
def open_browser(profile):
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if program is None:
        pytest.skip("there is no chromium here to open the page in")
    there, send = os.pipe()
    receive, here = os.pipe()
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--remote-debugging-pipe"]
    words = [program, *options, f"--user-data-dir={profile}", "about:blank"]
    starter = [sys.executable, "-c", NUMBERED, str(there), str(here), *words]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(starter, pass_fds=(there, here), **quiet) as process:
        os.close(there)
        os.close(here)
        try:
            yield Browser(send, receive)
        finally:
            process.terminate()
            os.close(send)
            os.close(receive)


def test_the_page_in_a_browser(server, seen, tmp_path):
    agent = seen[0].agent
    with open_browser(tmp_path) as browser:
        browser("Emulation.setDeviceMetricsOverride", width=1280, height=800, deviceScaleFactor=1, mobile=False)
        browser("Page.navigate", url=server.address)
        browser.wait_for("document.querySelector('main')?.ariaBusy === 'false'")
        state = ask(server, "state", world="train", time=0)[1]
        browser.wait_for("decoded.src", state["reconstruction"])
        assert browser.value("[...document.querySelectorAll('#sliders input')].map(s => s.ariaLabel)") == [
            f"latent {i}" for i in range(12)
        ]

        # A slider is dragged to its end: the picture is that of the code.
        slider = "document.querySelectorAll('#sliders input')[4]"
        x, y, half = browser.middle(slider)
        thumb = x + (half - 7) * max(-1, min(1, state["code"][4]))
        browser.mouse("Pressed", thumb, y)
        for step in range(1, 5):
            browser.mouse("Moved", thumb + (x + half - thumb) * step / 4, y)
        browser.mouse("Released", x + half, y)
        code = [*state["code"][:4], 1.0, *state["code"][5:]]
        with torch.no_grad():
            drawn = png((agent.decode(torch.tensor([code]))[0] * 255).round().to(torch.uint8).numpy())
        assert drawn != state["reconstruction"]
        browser.wait_for("decoded.src", drawn)
        browser.click("document.getElementById('reset')")
        browser.wait_for("decoded.src", state["reconstruction"])

        # The keyboard moves on in the episode, and both worlds are shown.
        browser.value("when.focus()")
        browser.press("ArrowRight")
        browser.press("ArrowRight")
        browser.wait_for("step.textContent", "2 of 8")
        browser.value("world.value = 'distracting_color'; world.dispatchEvent(new Event('change'))")
        browser.value("strength.value = '0.3'; strength.dispatchEvent(new Event('change'))")
        browser.wait_for("document.getElementById('film-shifted').src", play(server, SHIFTED)["strip"])
        for side, world in (("clean", "train"), ("shifted", SHIFTED)):
            status, state = ask(server, "state", world=world, time=2)
            assert status == 200, state
            browser.wait_for(f"document.getElementById('{side}-frame').src", state["frame"])
            shown = browser.value(f"[...document.querySelectorAll('#actions td.{side}')].map(cell => cell.textContent)")
            assert [float(text.replace("\u2212", "-")) for text in shown] == pytest.approx(
                [state["q"], *state["action"]], abs=0.0051
            )

        assert browser.value("news.textContent") == ""
        assert browser.value("[document.documentElement.scrollWidth, document.documentElement.scrollHeight]") == [
            1280,
            800,
        ]
        for event in browser.events:
            assert event["method"] not in ("Runtime.exceptionThrown", "Log.entryAdded"), event
            if event["method"] == "Network.requestWillBeSent":
                assert event["params"]["request"]["url"].startswith((server.address, "data:"))
