import base64
import contextlib
import dataclasses
import http.client
import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import threading
import time

import numpy as np
import pytest
import torch
from conftest import make_agent
from PIL import Image

import alda
from alda.analysis import inspector
from alda.analysis.inspector import Server, Session, png, stored_values
from alda.analysis.paired_rollouts import paired_rollouts
from alda.commands.inspect import inspect
from alda.config import Config, EnvConfig
from alda.envs.backgrounds.data import Data
from alda.errors import UserError
from alda.policy import Policy
from alda.types import EnvSpec

STEPS = 9  # of an episode
SPEC = EnvSpec(frames=3, image_size=64, action_dim=1)
ENV = EnvConfig(task="cartpole_balance", episode_length=4 * STEPS, profile="fast")
SHIFTED = "distracting_color:0.3"


@pytest.fixture(scope="module")
def run(trained):
    return trained("alda")


@pytest.fixture(scope="module")
def server(run):
    with Server(lambda: Session(alda.load(run), seed=4), port=0) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def seen(run):
    """Return a policy and the steps of the episode, clean and shifted, by the function that other commands use."""
    policy = alda.load(run)
    return policy, list(paired_rollouts(policy, ("train", SHIFTED), [4]))


def request(server, method, path, body=b"", folder=None, **headers):
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=60)
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request(method, (folder or server.folder) + path, body, headers)
    response = connection.getresponse()
    content = response.read()
    connection.close()
    return response, content


def ask(server, question, **words):
    response, content = request(server, "POST", f"api/{question}", json.dumps(words).encode())
    return response.status, json.loads(content)


def play(server, shift):
    while not (answer := ask(server, "play", shift=shift)[1])["done"]:
        assert answer["played"] <= STEPS
    return answer


def pixels(address):
    with Image.open(io.BytesIO(base64.b64decode(address.removeprefix("data:image/png;base64,")))) as image:
        return np.asarray(image).transpose(2, 0, 1)


# the session, asked over HTTP


def test_what_is_told_of_a_run(server):
    status, about = ask(server, "about")
    told = (about["method"], about["task"], about["step"], about["decodes"])
    assert (status, told) == (200, ("alda", "cartpole_balance", 12, True))
    shifts = {shift["name"]: shift for shift in about["shifts"]}
    assert list(shifts) == [name for name in alda.envs.SHIFTS if name != "train"]
    assert shifts["color_hard"]["strengths"] == []
    assert shifts["distracting_cs"]["strengths"][0] == 0.025


@pytest.mark.parametrize("shift", ["train", SHIFTED])
def test_states_are_those_of_twins_and_answers_those_of_the_agent(server, seen, shift):
    play(server, "train")
    answer = play(server, shift)
    assert (answer["played"], answer["length"]) == (STEPS, STEPS)
    policy, steps = seen
    column = ("train", SHIFTED).index(shift)
    assert len(steps) == STEPS
    for i, thumbnail in enumerate(np.split(pixels(answer["strip"]), 16, axis=2)):
        np.testing.assert_array_equal(thumbnail, steps[round(i * (STEPS - 1) / 15)].seen[column][-1])
    for t in (0, 1, 5, STEPS - 1):
        obs = steps[t].seen[column]
        status, state = ask(server, "state", shift=shift, time=t)
        assert status == 200
        np.testing.assert_array_equal(pixels(state["frame"]), obs[-1])
        np.testing.assert_array_equal(pixels(state["reconstruction"]), policy.reconstruct(obs))
        action, batch = policy.act(obs), torch.from_numpy(obs)[None]
        assert state["action"] == action.tolist()
        if shift == "train":
            assert state["action"] == steps[t].action.tolist()
        with torch.no_grad():
            q = policy.agent.critic(policy.agent.representation(batch), torch.from_numpy(action)[None])
        assert state["q"] == min(q[0].item(), q[1].item())
        found = policy.agent.latents(batch)
        assert state["encoded"] == found.encoded[0].tolist()
        assert state["code"] == found.code[0].tolist()
        assert state["outside"] == [not -1 <= x <= 1 for x in state["encoded"]]


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
    code = ask(server, "state", shift="train", time=3)[1]["code"]
    state = ask(server, "state", shift="train", time=3)[1]
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
        ("about", b" " * 100_000, "less than 100000 bytes"),
        ("about", b"[" * 50_000, "a question is a JSON object"),
        ("about", b"[]", "about takes a JSON object with no entries"),
        ("play", b"{}", "play takes a JSON object with shift (str)"),
        ("state", b'{"shift": "train", "time": true}', "time (int)"),
        ("play", b'{"shift": "colour_hard"}', "did you mean 'color_hard'"),
        ("state", b'{"shift": "train", "time": 9}', "9 steps are played; there is no step 9"),
        ("state", b'{"shift": "video_hard", "time": 0}', "0 steps are played; there is no step 0"),
        ("decode", b'{"code": [0, 1]}', "a code is 12 numbers"),
        ("decode", b'{"code": [0,0,0,0,0,0,0,0,0,0,0,NaN]}', "a code is 12 numbers"),
    ],
)
def test_bad_questions_get_one_sentence(server, question, body, sentence):
    play(server, "train")
    response, content = request(server, "POST", f"api/{question}", body)
    assert response.status == 400
    assert sentence in json.loads(content)["error"]


def test_a_question_without_its_length_is_refused(server):
    for length in ("-1", "x"):
        assert request(server, "POST", "api/about", b"{}", Content_Length=length)[0].status == 400


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "localhost:9000"}, 200),  # a forwarded port
        ({"Host": "evil.example"}, 403),
        ({"Host": "127.0.0.1.evil.example:8000"}, 403),
        ({"Host": "localhost:9000", "Origin": "http://localhost:9000"}, 200),
        ({"Host": "localhost:9000", "Origin": "http://localhost:9001"}, 403),
        ({"Host": "localhost:9000", "Origin": "null"}, 403),
    ],
)
def test_only_pages_of_this_machine_get_answers(server, headers, status):
    for method, path, body in (("GET", "", b""), ("POST", "api/about", b"{}")):
        response, _ = request(server, method, path, body, **headers)
        assert response.status == status
        assert response.getheader("Access-Control-Allow-Origin") is None


def test_there_is_nothing_to_get_but_the_page(server):
    assert server.server_address[0] == "127.0.0.1"
    response, content = request(server, "GET", "")
    assert response.status == 200
    assert content.startswith(b"<!doctype html>")
    assert b"http://" not in content  # nothing comes from elsewhere
    assert b"https://" not in content
    for path in ("inspector.html", "../inspector.py", "/etc/passwd", "api/"):
        assert request(server, "GET", path)[0].status == 404
    for path in ("about", "api/close", "api/_picture", "api/__init__"):
        assert request(server, "POST", path, b"{}")[0].status == 404


def test_who_does_not_know_the_address_gets_nothing(server):
    for folder in ("/", "/x/", server.folder[:-2] + "/"):
        for method, path in (("GET", ""), ("POST", "api/about")):
            assert request(server, method, path, b"{}", folder=folder)[0].status == 404


def test_a_question_that_never_ends_is_dropped_quietly(server, monkeypatch, capfd):
    monkeypatch.setattr(inspector.Handler, "patience", 0.3)
    head = f"POST {server.folder}api/about HTTP/1.0\r\nHost: localhost\r\nContent-Length: 50\r\n\r\n".encode()
    for sent in (head[:10], head, head + b"{"):
        with socket.create_connection(("127.0.0.1", server.server_port), timeout=10) as connection:
            connection.sendall(sent)
            assert b" 200 " not in connection.recv(1000)  # returns when the server hangs up
    assert capfd.readouterr().err == ""


def test_more_connections_than_can_be_served_are_closed(server):
    crowd = [socket.create_connection(("127.0.0.1", server.server_port)) for _ in range(inspector._MOST_CONNECTIONS)]
    try:
        with socket.create_connection(("127.0.0.1", server.server_port), timeout=10) as late:
            assert late.recv(1) == b""
    finally:
        for connection in crowd:
            connection.close()
    answers, deadline = [], time.monotonic() + 20
    while not answers and time.monotonic() < deadline:
        with contextlib.suppress(ConnectionError):
            answers.append(request(server, "GET", "")[0].status)
    assert answers == [200]


# the session alone


def session_of(name, **settings):
    agent = make_agent(name, spec=SPEC)
    return Session(Policy(agent, Config(**{"agent": agent.config, "env": ENV, **settings}), SPEC, 0), seed=0)


def test_what_failed_is_said_and_begun_anew(server, monkeypatch, capfd):
    def fails(*_):
        raise ValueError("the simulator is lost")

    with monkeypatch.context() as patch:
        patch.setattr(Config, "make_env", fails)
        patch.setattr(server.session, "_episodes", {})
        for _ in range(2):
            assert ask(server, "play", shift="train") == (500, {"error": "ValueError: the simulator is lost"})
    assert "the simulator is lost" in capfd.readouterr().err
    assert play(server, "train")["played"] == STEPS


def test_shifts_wait_for_the_policy_and_one_without_its_data_is_refused(tmp_path):
    env = dataclasses.replace(ENV, episode_length=4)
    session = session_of("sac", env=env, data=Data(color_table=tmp_path / "nonesuch.json"))
    for early in (session.latents, lambda: session.play("video_easy")):
        with pytest.raises(UserError, match="has to be played to its end first"):
            early()
    while not session.play("train")["done"]:
        pass
    with pytest.raises(UserError, match="nonesuch"):
        session.play("color_hard")
    assert session.play("video_easy")["length"] == 1
    session.close()


def test_only_a_few_episodes_are_kept(monkeypatch):
    monkeypatch.setattr(inspector, "_MOST_SHIFTS", 2)
    session = session_of("sac")
    while not session.play("train")["done"]:
        pass
    shifts = [f"distracting_color:{strength}" for strength in (0.1, 0.2, 0.3)]
    for shift in shifts:
        session.play(shift)
    assert list(session._episodes) == ["train", *shifts[1:]]
    with pytest.raises(UserError, match="0 steps are played"):
        session.state(shifts[0], 0)
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


def test_stored_values_are_those_that_codes_can_take():
    agent = make_agent("alda", latent="fsq", num_values=5)
    values = stored_values(agent)
    assert values.tolist() == [[-1.0, -0.5, 0.0, 0.5, 1.0]] * 12
    code = agent.representation.memory(torch.linspace(-2, 2, 99)[:, None].repeat(1, 12)).policy
    assert set(code.flatten().tolist()) == set(values[0].tolist())
    for latent in ("clamp", "identity"):
        assert stored_values(make_agent("alda", latent=latent)) is None


def test_what_cannot_be_inspected_or_served_is_refused(tmp_path):
    with pytest.raises(UserError, match="repo has no latents of single frames, so there is nothing to inspect"):
        session_of("repo")
    for wrong in ({"port": 80}, {"seed": -1}):
        with pytest.raises(UserError, match="--port must be 0"):
            inspect(tmp_path, **wrong)
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(UserError, match=f"port {port}: Address already in use; name another"):
            Server(lambda: session_of("sac"), port)


def test_the_command_opens_the_page_and_serves_until_it_is_interrupted(heard, run, monkeypatch, capsys):
    found = []

    def visit(address):
        try:
            _, _, host, folder, _ = address.split("/")
            connection = http.client.HTTPConnection(host, timeout=60)
            connection.request("POST", f"/{folder}/api/about", b"{}")
            found.append(connection.getresponse().status)
        finally:
            os.kill(os.getpid(), signal.SIGINT)

    def open_page(address):
        assert f"is shown at {address}" in capsys.readouterr().out
        threading.Thread(target=visit, args=(address,)).start()

    monkeypatch.setattr("webbrowser.open", open_page)
    monkeypatch.setattr("signal.signal", lambda *_: None)
    with pytest.raises(KeyboardInterrupt):
        inspect(run, port=0)
    assert found == [200]


# the page, in a browser

VISIT = """
const until = async test => { while (!test()) await new Promise(resolve => setTimeout(resolve, 20)); };
const choose = (element, value, event) => { element.value = value; element.dispatchEvent(new Event(event)); };
(async () => {
  await until(() => byId("main").ariaBusy === "false");
  choose(when, 2, "input");
  choose(shift, "distracting_color", "change");
  choose(strength, "0.3", "change");
  await until(() => resetTo === 2 && shifted && byId("film-shifted").src !== NOTHING);
  await until(() => byId("decoded").src !== NOTHING);
  const sliders = document.querySelectorAll("#sliders input"), before = byId("decoded").src;
  choose(sliders[7], 0.5, "input");
  await until(() => byId("decoded").src !== before);
  byId("reset").click();
  await until(() => byId("decoded").src === before);
  choose(sliders[4], 1, "input");
  await until(() => byId("decoded").src !== before);
  document.title = "visited";
})();
"""


def test_the_page_in_a_browser(server, seen, tmp_path, monkeypatch):
    """Its own script is followed by one that does what a visitor does."""
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if program is None:
        pytest.skip("there is no chromium here to open the page in")
    monkeypatch.setattr(server, "page", server.page.replace(b"</script>", VISIT.encode() + b"</script>"))
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", f"--user-data-dir={tmp_path}"]
    words = [program, *options, "--dump-dom", "--virtual-time-budget=600000", server.address]
    page = subprocess.run(words, capture_output=True, text=True, timeout=120).stdout
    assert "<title>visited</title>" in page, re.findall(r'id="news".*?>(.*?)<', page)
    assert re.findall(r'id="news".*?>(.*?)<', page) == [""]

    def picture(name):
        return re.search(f'<img id="{name}".*?src="(.*?)"', page)[1]

    states = [ask(server, "state", shift=shift, time=2)[1] for shift in ("train", SHIFTED)]
    code = torch.tensor([states[0]["code"]])
    code[0, 4] = 1.0
    with torch.no_grad():
        assert picture("decoded") == png((seen[0].agent.decode(code)[0] * 255).round().to(torch.uint8).numpy())
    assert picture("film-shifted") == play(server, SHIFTED)["strip"]
    table = re.search('<tbody id="actions">(.*?)</tbody>', page)[1]
    for side, state in zip(("clean", "shifted"), states, strict=True):
        assert picture(f"{side}-frame") == state["frame"]
        assert picture(f"{side}-reconstruction") == state["reconstruction"]
        shown = [float(text.replace("\u2212", "-")) for text in re.findall(f'<td class="{side}">(.*?)</td>', table)]
        assert shown == pytest.approx([state["q"], *state["action"]], abs=0.0051)
