"""A run in the browser: latents that are moved and decoded, states of an episode that are seen in other worlds.

    page (inspector.html) -> JSON -> Server -> one thread, with agent and simulator: Session -> JSON -> page

Only this machine is served, and only where it is called by its own name, which keeps the pages of others out. No file
is read but the page itself.
"""

import base64
import io
import json
import time
import traceback
import webbrowser
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from alda.agents.base import Agent
from alda.agents.decoding import DecodingAgent, LatentAgent, to_pixels
from alda.agents.sac import SAC
from alda.analysis.latents.look import episode_steps, memory_of
from alda.analysis.paired_rollouts import twins
from alda.envs import SHIFTS, check_shift, covers
from alda.errors import UserError
from alda.latents.ablations import ClampLatent, FSQLatent
from alda.latents.codebook import CodebookLatent
from alda.policy import Policy, load

CLEAN = "train"  # the world that others are compared with
_STRENGTHS = (0.025, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0)  # of shifts that have one; the first is the usual one
_MOMENT = 0.1  # seconds that an episode is played on before other questions have their turn
_THUMBNAILS = 16  # of an episode; the page counts on it
_BATCH = 64  # states that the agent looks at at once
_LARGEST = 1e6  # number that is decoded
_DIGITS = 5  # of the number of bytes of a question
_QUESTIONS: dict[str, dict[str, type]] = {  # what a session may be asked, and the words that each question takes
    "about": {},
    "play": {"world": str},
    "latents": {},
    "state": {"world": str, "time": int},
    "decode": {"code": list},
}


def inspect_run(run: Path, *, port: int = 8000, seed: int = 0, browser: bool = True) -> None:
    """Serves a page about a run's newest policy at http://127.0.0.1:PORT until it is interrupted.

    port: 0 takes any free one. seed: of the episode whose states are looked at. browser: whether to open one.
    Raises UserError for a run without a policy or without latents, and for a port that cannot be had.
    """
    if not (port == 0 or 1024 <= port < 65536) or seed < 0:
        raise UserError("--port must be 0 (any free one) or from 1024 to 65535, and --seed must not be negative")
    with serving(lambda: Session(load(run), seed), port) as server:
        print(f"{run} is shown at {server.address} (Ctrl-C ends it)", flush=True)
        if browser:
            webbrowser.open(server.address)
        server.serve_forever()


class Episode:
    """Frames of one episode in one world, as far as it has been played. length: agent steps, as far as is known."""

    def __init__(self, play: Generator[UInt8[np.ndarray, "c h w"], None, None], length: int) -> None:
        self.frames: list[UInt8[np.ndarray, "c h w"]] = []
        self.play, self.length, self.done = play, length, False

    def advance(self) -> None:
        """Plays one agent step."""
        frame = next(self.play, None)
        if frame is None:
            self.done, self.length = True, len(self.frames)
        else:
            self.frames.append(frame)

    def obs(self, time: int, count: int) -> UInt8[np.ndarray, "f c h w"]:
        """The `count` newest frames at an agent step; the first is repeated, as at reset."""
        return np.stack([self.frames[max(0, i)] for i in range(time - count + 1, time + 1)])


class Session:
    """What is asked about one policy and one episode, and the answers, ready for JSON.

    All of it belongs in one thread: a simulator draws only in the thread that made it. Methods raise UserError for what
    cannot be answered.
    """

    def __init__(self, policy: Policy, seed: int) -> None:
        self.policy, self.config, self.seed = policy, policy.config, seed
        if not isinstance(policy.agent, LatentAgent):
            raise UserError(
                f"{self.config.method} has no latents of single frames, so there is nothing to inspect; "
                "`alda picture` draws what it sees"
            )
        self.agent, self.decodes = policy.agent, isinstance(policy.agent, DecodingAgent)
        blank = torch.zeros(1, *policy.spec.obs_shape, dtype=torch.uint8)
        self.num_latents = self.agent.latents(blank).code.shape[1]
        self._actions: list[Float[np.ndarray, " a"]] = []  # of the episode in the clean world
        self._episodes: dict[str, Episode] = {}

    def about(self) -> dict[str, Any]:
        """What does not change."""
        task = self.config.env.task
        worlds = [name for name in SHIFTS if name != CLEAN and covers(name, task)]
        return {
            "method": self.config.method,
            "task": task,
            "step": self.policy.step,
            "clean": CLEAN,
            "decodes": self.decodes,
            "worlds": [
                {
                    "name": name,
                    "changes": SHIFTS[name].__doc__,
                    "strengths": _STRENGTHS if SHIFTS[name].has_intensity else (),
                }
                for name in worlds
            ],
        }

    def play(self, world: str) -> dict[str, Any]:
        """Plays the episode in a world for a moment and says how far it is; at its end, with thumbnails.

        In the clean world the policy acts. In others its actions are repeated, so that the states are the same.
        """
        episode = self._episodes.pop(world, None) or self._begin(world)
        end = time.monotonic() + _MOMENT
        while not episode.done and time.monotonic() < end:
            episode.advance()
        self._episodes[world] = episode  # one that fails is not kept
        return {
            "played": len(episode.frames),
            "length": episode.length,
            "done": episode.done,
            "strip": strip(episode.frames) if episode.done else None,
        }

    @torch.no_grad()
    def latents(self) -> dict[str, Any]:
        """What holds for the whole episode: the range of every latent, values that are stored for it, and whether codes
        are retrieved, so that they differ from what is encoded."""
        clean = self._finished()
        frames = self.policy.spec.frames
        obs = torch.from_numpy(np.stack([clean.obs(t, frames) for t in range(clean.length)]))
        found = [self.agent.latents(part) for part in obs.split(_BATCH)]
        encoded, code = torch.cat([f.encoded for f in found]), torch.cat([f.code for f in found])
        low, high = self.agent.sweep(found[0]._replace(encoded=encoded, code=code), 2).unbind(-1)
        still = high - low < 1e-6  # but a slider has to move
        stored = stored_values(self.agent)
        return {
            "low": torch.where(still, low - 1, low).tolist(),
            "high": torch.where(still, high + 1, high).tolist(),
            "stored": None if stored is None else stored.tolist(),
            "retrieves": not torch.equal(encoded, code),
        }

    @torch.no_grad()
    def state(self, world: str, time: int) -> dict[str, Any]:
        """What the agent makes of one state. outside: beyond the lowest or highest value that a latent can be given;
        q: of the action, by the lower of both Q-functions."""
        episode = self._episodes.get(world)
        if episode is None or not 0 <= time < len(episode.frames):
            played = len(episode.frames) if episode else 0
            raise UserError(f"of the episode in {world!r} {played} steps are played; there is no step {time}")
        obs = torch.from_numpy(episode.obs(time, self.policy.spec.frames))[None]
        found = self.agent.latents(obs)
        action, _ = self.agent.act(obs, self.agent.initial_state(1), explore=False)
        memory, outside = memory_of(self.agent), None
        if isinstance(memory, CodebookLatent | ClampLatent):
            low, high = memory.sweep(found.code, 2).unbind(-1)
            outside = ((found.encoded < low) | (found.encoded > high))[0].tolist()
        q = None
        if isinstance(self.agent, SAC) and not self.policy.exported:
            q = self.agent.critic(self.agent.representation(obs), action).amin(0).item()
        return {
            "frame": png(episode.frames[time]),
            "reconstruction": self._picture(found.code),
            "encoded": found.encoded[0].tolist(),
            "code": found.code[0].tolist(),
            "outside": outside,
            "action": action[0].tolist(),
            "q": q,
        }

    def decode(self, code: list[Any]) -> dict[str, Any]:
        """The picture that a code stands for."""
        if not self.decodes:
            raise UserError(f"{self.config.method} has no decoder")
        numbers = all(type(number) in (int, float) and abs(number) <= _LARGEST for number in code)
        if len(code) != self.num_latents or not numbers:
            raise UserError(f"a code is {self.num_latents} numbers of at most {_LARGEST:.0f} either way")
        return {"image": self._picture(torch.tensor([code], dtype=torch.get_default_dtype()))}

    def close(self) -> None:
        """Closes the simulators of episodes that are not at their end."""
        for episode in self._episodes.values():
            episode.play.close()

    def _begin(self, world: str) -> Episode:
        if world == CLEAN:
            return Episode(self._played(), episode_steps(self.policy))
        check_shift(world, self.config.env.task)
        return Episode(self._repeated(world), self._finished().length)

    def _played(self) -> Generator[UInt8[np.ndarray, "c h w"], None, None]:
        self._actions.clear()
        with closing(twins(self.policy, (CLEAN,), [self.seed])) as steps:  # type: ignore[type-var]
            for step in steps:
                self._actions.append(step.action)
                yield step.seen[0][-1]

    def _repeated(self, world: str) -> Generator[UInt8[np.ndarray, "c h w"], None, None]:
        with closing(self.config.make_env(world, self.seed)) as env:
            obs, _ = env.reset(seed=self.seed)
            yield obs[-1]
            for action in self._actions[:-1]:
                obs, *_ = env.step(action)
                yield obs[-1]

    def _finished(self) -> Episode:
        """The episode in the clean world."""
        clean = self._episodes.get(CLEAN)
        if clean is None or not clean.done:
            raise UserError(f"the episode in {CLEAN} has to be played to its end first")
        return clean

    @torch.no_grad()
    def _picture(self, code: Float[Tensor, "1 l"]) -> str | None:
        return png(to_pixels(self.agent.decode(code))[0].numpy()) if isinstance(self.agent, DecodingAgent) else None


def stored_values(agent: Agent) -> Float[Tensor, "l v"] | None:
    """The values that each latent can be given, where it is a matter of choosing among them."""
    memory = memory_of(agent)
    if isinstance(memory, CodebookLatent):
        return memory.values.detach()
    if isinstance(memory, FSQLatent):
        c = memory.config
        return memory.sweep(torch.zeros(1, c.num_latents), c.num_values)
    return None


def strip(frames: list[UInt8[np.ndarray, "c h w"]]) -> str:
    """Thumbnails of an episode, evenly spread, in one picture."""
    chosen = np.linspace(0, len(frames) - 1, _THUMBNAILS).round().astype(int)
    return png(np.concatenate([frames[t] for t in chosen], axis=2))


def png(image: UInt8[np.ndarray, "c h w"]) -> str:
    """A picture as an address that a page can show."""
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(image.transpose(1, 2, 0))).save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


@contextmanager
def serving(open_session: Callable[[], Session], port: int) -> Iterator["Server"]:
    """A server that listens, and answers while its `serve_forever` runs. Errors as of inspect_run."""
    with ThreadPoolExecutor(max_workers=1) as thread:
        session = thread.submit(open_session).result()
        try:
            with Server(session, thread, port) as server:
                yield server
        finally:
            thread.submit(session.close).result()


class Server(ThreadingHTTPServer):
    """Brings questions to the session, one at a time, in its thread."""

    def __init__(self, session: Session, thread: ThreadPoolExecutor, port: int) -> None:
        self.session, self.thread = session, thread
        self.page = files("alda.analysis").joinpath("inspector.html").read_bytes()
        try:
            super().__init__(("127.0.0.1", port), Handler)
        except OSError as error:
            raise UserError(f"port {port}: {error.strerror}; name another by --port, or 0 for any free one") from error

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def ask(self, question: str, words: object) -> dict[str, Any]:
        """Raises UserError for words that do not belong to the question."""
        wanted = _QUESTIONS[question]
        if not isinstance(words, dict) or {name: type(value) for name, value in words.items()} != wanted:
            names = ", ".join(f"{name} ({kind.__name__})" for name, kind in wanted.items()) or "no words"
            raise UserError(f"{question} takes a JSON object with {names}")
        return self.thread.submit(getattr(self.session, question), **words).result()


class Handler(BaseHTTPRequestHandler):
    """GET / is the page, POST /api/QUESTION with a JSON object an answer; errors are {"error": a sentence}."""

    server: Server
    timeout = 30  # seconds that a question may take to arrive

    def do_GET(self) -> None:
        if not self._is_local():
            self._answer(HTTPStatus.FORBIDDEN, {"error": "this page is for the machine it runs on"})
        elif self.path != "/":
            self._answer(HTTPStatus.NOT_FOUND, {"error": "there is nothing here"})
        else:
            self._send(HTTPStatus.OK, "text/html; charset=utf-8", self.server.page)

    def do_POST(self) -> None:
        question = self.path.removeprefix("/api/")
        if not self._is_local():
            self._answer(HTTPStatus.FORBIDDEN, {"error": "this page is for the machine it runs on"})
        elif question not in _QUESTIONS or not self.path.startswith("/api/"):
            self._answer(HTTPStatus.NOT_FOUND, {"error": "there is nothing here"})
        else:
            try:
                self._answer(HTTPStatus.OK, self.server.ask(question, self._words()))
            except UserError as error:
                self._answer(HTTPStatus.BAD_REQUEST, {"error": str(error)})
            except Exception as error:
                traceback.print_exc()  # on the terminal
                self._answer(HTTPStatus.INTERNAL_SERVER_ERROR, {"error": f"{type(error).__name__}: {error}"})

    def _is_local(self) -> bool:
        """Whether the browser calls this machine by its own name (another name may have been made to lead here), and
        sends no question of another page. Ports may differ, as where one is forwarded."""
        host, origin = self.headers.get("Host", ""), self.headers.get("Origin")
        with suppress(ValueError):
            named = urlsplit(f"//{host}").hostname in ("127.0.0.1", "localhost")
            return named and origin in (None, f"http://{host}")
        return False

    def _words(self) -> object:
        length = self.headers.get("Content-Length", "")
        if not (length.isdecimal() and len(length) <= _DIGITS):
            raise UserError(f"a question is a JSON object of less than {10**_DIGITS} bytes")
        try:
            return json.loads(self.rfile.read(int(length)))
        except (ValueError, RecursionError) as error:
            raise UserError("a question is a JSON object") from error

    def _answer(self, status: HTTPStatus, answer: dict[str, Any]) -> None:
        self._send(status, "application/json", json.dumps(answer, allow_nan=False).encode())

    def _send(self, status: HTTPStatus, kind: str, content: bytes) -> None:
        with suppress(ConnectionError):  # the page may have been closed
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.send_header("Cache-Control", "no-store")
            self.send_header("X-Content-Type-Options", "nosniff")
            self.send_header(
                "Content-Security-Policy",
                "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:; "
                "connect-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
            )
            self.end_headers()
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """The terminal stays quiet."""
