"""A run in the browser: latents that are moved and decoded, states of an episode that are seen under other shifts.

    page (inspector.html) -> JSON -> Server -> one thread, with agent and simulator: Session -> JSON -> page

Only this machine is served, only under a folder with a random name, which keeps out its other users, and only where the
browser calls it by its own name, which keeps out other sites' pages. No file is read but the page itself.
"""

import base64
import io
import json
import secrets
import socket
import threading
import time
import traceback
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
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
from alda.analysis.latents.readout import CHUNK, episode_steps, memory_of, stacked, stored_range
from alda.analysis.paired_rollouts import evenly_spread
from alda.envs import SHIFTS, check_shift, covers
from alda.errors import UserError
from alda.latents.ablations import FSQLatent
from alda.latents.codebook import CodebookLatent
from alda.policy import Policy
from alda.training.acceleration import one_thread

CLEAN = "train"  # the shift that others are compared with
_STRENGTHS = (0.025, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0)  # of shifts that have one; the first is the usual one
_MOMENT = 0.1  # seconds that an episode is played before other questions have their turn
_THUMBNAILS = 16  # of an episode
_MOST_BYTES = 100_000  # of a question
_MOST_SHIFTS = 4  # whose episodes are kept, besides the clean one
_MOST_CONNECTIONS = 32  # at a time
_QUESTIONS: dict[str, dict[str, type]] = {  # methods of a session that the page calls, with their arguments
    "about": {},
    "play": {"shift": str},
    "latents": {},
    "state": {"shift": str, "time": int},
    "decode": {"code": list},
}
_PAGE_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:; connect-src 'self'; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)


@dataclass
class Episode:
    """Observations of one episode under one shift, as far as it has been played."""

    play: Generator[UInt8[np.ndarray, "f c h w"], None, None]
    length: int  # agent steps, if it ends on time
    obs: list[UInt8[np.ndarray, "f c h w"]] = field(default_factory=list)
    done: bool = False


class Session:
    """Answers to questions about one policy and one episode, ready for JSON.

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
        self._actions: list[Float[np.ndarray, " a"]] = []  # of the clean episode
        self._episodes: dict[str, Episode] = {}

    def about(self) -> dict[str, Any]:
        """Return what does not change: the run, and the shifts that it can be seen under."""
        task = self.config.env.task
        others = {name: shift for name, shift in SHIFTS.items() if name != CLEAN and covers(name, task)}
        return {
            "method": self.config.method,
            "task": task,
            "step": self.policy.step,
            "clean": CLEAN,
            "decodes": self.decodes,
            "shifts": [
                {"name": name, "changes": shift.__doc__, "strengths": _STRENGTHS if shift.has_intensity else ()}
                for name, shift in others.items()
            ],
        }

    def play(self, shift: str) -> dict[str, Any]:
        """Play the episode under a shift for a moment; return how far it is and, at its end, thumbnails.

        In the clean episode the policy acts. Other shifts repeat its actions, so that the states are the same.
        """
        if (episode := self._episodes.pop(shift, None)) is None:
            check_shift(shift, self.config.env.task)
            length = episode_steps(self.policy) if shift == CLEAN else self._clean().length
            episode = Episode(self._observations(shift), length)
        end, strip = time.monotonic() + _MOMENT, None
        while not episode.done and time.monotonic() < end:
            if (obs := next(episode.play, None)) is None:
                episode.done, episode.length = True, len(episode.obs)
            else:
                episode.obs.append(obs)
        self._episodes[shift] = episode  # one that fails is not kept
        for other in [name for name in self._episodes if name != CLEAN][:-_MOST_SHIFTS]:
            self._episodes.pop(other).play.close()  # and its simulator
        if episode.done:
            thumbnails = [obs[-1] for obs in evenly_spread(episode.obs, _THUMBNAILS)]
            strip = png(np.concatenate(thumbnails, axis=2))
        return {"played": len(episode.obs), "length": episode.length, "done": episode.done, "strip": strip}

    @torch.no_grad()
    def latents(self) -> dict[str, Any]:
        """Return the range of every latent in this episode, the values stored for it, and whether codes are retrieved,
        so that they differ from the encoder's output."""
        found = [self.agent.latents(part) for part in stacked(self._clean().obs, self.policy).split(CHUNK)]
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
    def state(self, shift: str, time: int) -> dict[str, Any]:
        """Return what the agent makes of one state. outside: whether the encoder's output lies beyond the lowest or
        highest value of a latent; q: of the action, the lower of both Q-functions."""
        episode = self._episodes.get(shift)
        played = len(episode.obs) if episode else 0
        if episode is None or not 0 <= time < played:
            raise UserError(f"of the episode in {shift!r} {played} steps are played; there is no step {time}")
        obs = stacked([episode.obs[time]], self.policy)
        found = self.agent.latents(obs)
        action, _ = self.agent.act(obs, self.agent.initial_state(1), explore=False)
        outside, q = None, None
        if (bounds := stored_range(self.agent)) is not None:
            outside = ((found.encoded < bounds[0]) | (found.encoded > bounds[1]))[0].tolist()
        if isinstance(self.agent, SAC) and self.policy.complete:
            q = self.agent.critic(self.agent.representation(obs), action).amin(0).item()
        return {
            "frame": png(episode.obs[time][-1]),
            "reconstruction": self._picture(found.code),
            "encoded": found.encoded[0].tolist(),
            "code": found.code[0].tolist(),
            "outside": outside,
            "action": action[0].tolist(),
            "q": q,
        }

    def decode(self, code: list[Any]) -> dict[str, Any]:
        """Return the picture that a code stands for."""
        if not self.decodes:
            raise UserError(f"{self.config.method} has no decoder")
        if len(code) != self.num_latents or not all(type(x) in (int, float) and abs(x) < 1e6 for x in code):
            raise UserError(f"a code is {self.num_latents} numbers below 1e6 in magnitude")
        return {"image": self._picture(torch.tensor([code], dtype=torch.get_default_dtype()))}

    def close(self) -> None:
        """Close the simulators of episodes that are not at their end."""
        for episode in self._episodes.values():
            episode.play.close()

    def _observations(self, shift: str) -> Generator[UInt8[np.ndarray, "f c h w"], None, None]:
        with closing(self.config.make_env(shift)) as env:
            obs, _ = env.reset(seed=self.seed)
            if shift == CLEAN:
                self._actions.clear()
                self.policy.reset()
            time, done = 0, False
            while not done:
                yield obs
                if shift == CLEAN:
                    with one_thread():
                        self._actions.append(self.policy.act(obs))
                obs, _, terminated, truncated, _ = env.step(self._actions[time])
                time, done = time + 1, terminated or truncated

    def _clean(self) -> Episode:
        clean = self._episodes.get(CLEAN)
        if clean is None or not clean.done:
            raise UserError(f"the episode in {CLEAN} has to be played to its end first")
        return clean

    @torch.no_grad()
    def _picture(self, code: Float[Tensor, "1 l"]) -> str | None:
        return png(to_pixels(self.agent.decode(code))[0].numpy()) if isinstance(self.agent, DecodingAgent) else None


def stored_values(agent: Agent) -> Float[Tensor, "l v"] | None:
    """Return the values that each latent can take, where codes are chosen among some."""
    memory = memory_of(agent)
    if isinstance(memory, FSQLatent):
        return memory.sweep(torch.zeros(1, memory.config.num_latents), memory.config.num_values)
    return memory.values.detach() if isinstance(memory, CodebookLatent) else None


def png(image: UInt8[np.ndarray, "c h w"]) -> str:
    """Return a picture as a data URL."""
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(image.transpose(1, 2, 0))).save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


class Server(ThreadingHTTPServer):
    """Answers questions, one at a time, in the thread of the session, while `serve_forever` runs. Use as a context.

    port: 0 takes any free one. folder: path of the page, a secret. Raises UserError for a port that cannot be had, and
    what opening the session raises.
    """

    request_queue_size = 2 * _MOST_CONNECTIONS  # that wait to be accepted

    def __init__(self, open_session: Callable[[], Session], port: int) -> None:
        self.thread = ThreadPoolExecutor(max_workers=1)
        self.session = self.thread.submit(open_session).result()
        self.free = threading.BoundedSemaphore(_MOST_CONNECTIONS)
        self.folder = f"/{secrets.token_urlsafe(16)}/"
        self.page = files("alda.analysis").joinpath("inspector.html").read_bytes()
        try:
            super().__init__(("127.0.0.1", port), Handler)
        except OSError as error:
            self._close_session()
            raise UserError(f"port {port}: {error.strerror}; name another by --port, or 0 for any free one") from error
        self.address = f"http://127.0.0.1:{self.server_port}{self.folder}"

    def __exit__(self, *error: Any) -> None:
        self._close_session()
        super().__exit__(*error)

    def _close_session(self) -> None:
        self.thread.submit(self.session.close).result()
        self.thread.shutdown()

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer in a thread of its own; close the connection where too many are open."""
        if self.free.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self.free.release()

    def ask(self, question: str, given: Any) -> dict[str, Any]:
        """Return the session's answer. Raises UserError for arguments that do not belong to the question."""
        wanted = _QUESTIONS[question]
        if not isinstance(given, dict) or {name: type(value) for name, value in given.items()} != wanted:
            names = ", ".join(f"{name} ({kind.__name__})" for name, kind in wanted.items()) or "no entries"
            raise UserError(f"{question} takes a JSON object with {names}")
        answer: dict[str, Any] = self.thread.submit(getattr(self.session, question), **given).result()
        return answer


class Handler(BaseHTTPRequestHandler):
    """GET FOLDER is the page, POST FOLDER/api/QUESTION with a JSON object an answer, or {"error": a sentence}."""

    server: Server
    patience = 30.0  # seconds that a question may take to arrive, however slowly it drips

    def setup(self) -> None:
        super().setup()
        self.hang_up = threading.Timer(self.patience, self._stop_reading)
        self.hang_up.start()

    def finish(self) -> None:
        self.hang_up.cancel()
        super().finish()

    def _stop_reading(self) -> None:
        with suppress(OSError):  # closed already
            self.connection.shutdown(socket.SHUT_RD)

    def parse_request(self) -> bool:
        """Refuse whatever another site's page may have sent; ports may differ, as where one is forwarded."""
        if not super().parse_request():
            return False
        host, origin = self.headers.get("Host", ""), self.headers.get("Origin")
        with suppress(ValueError):
            if urlsplit(f"//{host}").hostname in ("127.0.0.1", "localhost") and origin in (None, f"http://{host}"):
                return True
        self._answer(HTTPStatus.FORBIDDEN, {"error": "this page is for the machine it runs on"})
        return False

    def do_GET(self) -> None:
        if secrets.compare_digest(self.path.encode(), self.server.folder.encode()):
            self._send(HTTPStatus.OK, "text/html; charset=utf-8", self.server.page)
        else:
            self._answer(HTTPStatus.NOT_FOUND, {"error": "there is nothing here"})

    def do_POST(self) -> None:
        folder, _, question = self.path.rpartition("api/")
        if not secrets.compare_digest(folder.encode(), self.server.folder.encode()) or question not in _QUESTIONS:
            return self._answer(HTTPStatus.NOT_FOUND, {"error": "there is nothing here"})
        try:
            self._answer(HTTPStatus.OK, self.server.ask(question, self._body()))
        except UserError as error:
            self._answer(HTTPStatus.BAD_REQUEST, {"error": str(error)})
        except Exception as error:
            traceback.print_exc()  # on the terminal
            self._answer(HTTPStatus.INTERNAL_SERVER_ERROR, {"error": f"{type(error).__name__}: {error}"})

    def _body(self) -> Any:
        length = self.headers.get("Content-Length", "")
        if not (length.isdecimal() and len(length) < 9 and int(length) < _MOST_BYTES):
            raise UserError(f"a question is a JSON object of less than {_MOST_BYTES} bytes")
        try:
            return json.loads(self.rfile.read(int(length)))
        except (ValueError, RecursionError) as error:
            raise UserError("a question is a JSON object") from error
        finally:
            self.hang_up.cancel()

    def _answer(self, status: HTTPStatus, answer: dict[str, Any]) -> None:
        self._send(status, "application/json", json.dumps(answer, allow_nan=False).encode())

    def _send(self, status: HTTPStatus, kind: str, content: bytes) -> None:
        headers = {"Content-Type": kind, "Content-Length": str(len(content)), "Cache-Control": "no-store"}
        headers |= {"X-Content-Type-Options": "nosniff", "Content-Security-Policy": _PAGE_POLICY}
        with suppress(ConnectionError):  # the page may have been closed
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Keep the terminal quiet."""
