"""Pages of runs made by hand, read back with an HTML parser."""

import base64
import json
import sys
from dataclasses import dataclass, field
from hashlib import sha256
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from conftest import make_agent
from PIL import Image
from test_figures import made, write

from alda.agents.alda import ALDAConfig
from alda.agents.sac import SACConfig
from alda.analysis.latents.association import View, compare
from alda.analysis.latents.disentanglement import measure as measure_disentanglement
from alda.analysis.latents.theorem import measure as measure_theorem
from alda.analysis.latents.traversal import localise
from alda.analysis.report.analyses import NUMBERS, number
from alda.cli import run as run_command
from alda.commands.analyze import ANALYSES
from alda.commands.report import report
from alda.errors import UserError
from alda.training.rollout import bootstrap_interval
from alda.training.video import write_video

DASH = "\N{EN DASH}"


@dataclass
class Page(HTMLParser):
    """What a browser would find: tags with attributes, text, tables as lists of rows."""

    file: Path
    tags: list = field(default_factory=list)
    text: str = ""
    tables: list = field(default_factory=list)
    open: list = field(default_factory=list)

    def __post_init__(self):
        super().__init__()
        self.source = self.file.read_text()
        self.feed(self.source)
        self.close()
        assert self.open == []  # every element that begins ends

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "link", "img", "input"):
            self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data
        if self.open and self.open[-1] in ("td", "th"):
            self.tables[-1][-1][-1] += data

    def named(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]

    def table(self, head):
        return next(table for table in self.tables if table[0][0] == head)


def page_of(*runs, out, **options):
    report(runs, out=out / "page.html", **options)
    return Page(out / "page.html")


def fill(run):
    """A picture, a video and an evaluation."""
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(256, size=(8, 8, 3), dtype=np.uint8)).save(run / "picture.png")
    write_video(run / "videos" / "000000010_train", list(rng.integers(256, size=(3, 16, 16, 3), dtype=np.uint8)), 5)
    world = {"mean": 12.34, "interval": [1.26, 20.01], "returns": [1.0, 23.68]}
    world["made_with"] = {"background": "procedural-v1", "colors": "of the task"}
    (run / "evaluations").mkdir()
    record = {"step": 1500, "seed": 7, "worlds": {"video_easy": world}}
    (run / "evaluations" / "step_000001500_seed_7.json").write_text(json.dumps(record))
    return run


def test_the_page_needs_nothing_from_outside(tmp_path):
    runs = [fill(write(made(seed=seed), tmp_path)) for seed in (0, 1)]
    page = page_of(*runs, out=tmp_path)
    for tag, attributes in page.tags:
        assert tag not in ("script", "iframe", "object", "embed", "base", "form"), tag
        for name, value in attributes.items():
            assert not name.startswith("on"), (tag, name)
            assert name != "style", tag  # the policy would refuse it
            if name in ("src", "href", "poster", "srcset", "action", "data"):
                assert value.startswith(("data:", "#")), (tag, value[:50])
    assert {link["href"][1:] for link in page.named("a")} <= {a.get("id") for _, a in page.tags}
    style = page.source.split("<style>")[1].split("</style>")[0]
    assert "url(" not in style
    assert "@import" not in style
    (policy,) = [meta["content"] for meta in page.named("meta") if "content" in meta and "http-equiv" in meta]
    assert policy.startswith("default-src 'none'; ")
    assert f"style-src 'sha256-{base64.b64encode(sha256(style.encode()).digest()).decode()}'" in policy
    assert all(image["alt"] for image in page.named("img"))
    assert [(video["width"], video["height"]) for video in page.named("video")] == [("64", "64")] * 2
    assert page_of(*runs, out=tmp_path).source == page.source  # the same runs give the same page


def test_names_of_strangers_are_text(tmp_path):
    evil = "<script>alert(1)</script>\"><img src=x onerror=alert(2)>'&"
    place = fill(write(made(path=Path(evil.replace("/", "")), name=evil, seed=5), tmp_path))
    (place / "meta.json").write_text(json.dumps({evil: evil}))
    (place / "analysis").mkdir()
    (place / "analysis" / "association_x.json").write_text(json.dumps({"step": evil, "shift": evil, "distance": evil}))
    evaluation = place / "evaluations" / "step_000001500_seed_7.json"
    evaluation.write_text(evaluation.read_text().replace("video_easy", json.dumps(evil)[1:-1]))
    other = write(made(seed=6, path=Path("$\\frac$\udcff")), tmp_path)  # neither mathematics nor UTF-8
    page = page_of(place, other, out=tmp_path)
    assert not page.named("script")
    assert all("onerror" not in attributes for _, attributes in page.tags)
    assert all(image["src"].startswith("data:image/") for image in page.named("img"))
    assert evil in page.text
    assert "alda analyze traversal '" in page.text


def test_the_overview_holds_the_numbers_of_the_runs(tmp_path):
    scores = {("alda", 0): (10, 20, 31), ("alda", 1): (5, 7, 9), ("alda", 2): (1, 2, 900), ("sac", 0): range(8)}
    agents = {"alda": ALDAConfig(), "sac": SACConfig()}
    for (method, seed), returns in scores.items():
        write(made(agents[method], seed=seed, scores=returns), tmp_path / "runs")
    page = page_of(tmp_path / "runs", out=tmp_path)
    table = page.table("task")
    for method, label in (("alda", "ALDA"), ("sac", "SAC")):
        for shift, share in (("train", 1), ("color_hard", 0.5)):
            (row,) = [row for row in table if row[:3] == ["walker_walk", label, shift]]
            by_hand = [np.mean(returns[-5:]) * share for (name, _), returns in scores.items() if name == method]
            low, high = bootstrap_interval(by_hand)
            interval = f"{low:.1f} to {high:.1f}" if method == "alda" else "one seed"
            steps = "20" if method == "alda" else "70"
            assert row[3:] == [f"{np.mean(by_hand):.1f}", interval, str(len(by_hand)), steps]
    assert len(table) == 5
    assert "alda on walker_walk, seed 2: train 301.0, color_hard 150.5" in page.text
    assert len([tag for tag in page.named("details") if tag.get("class") == "run"]) == 4
    assert page.text.count("Means over seeds") == 1


def test_a_page_shows_nothing_from_outside_its_runs(tmp_path):
    mine, run = fill(write(made(seed=0), tmp_path)), fill(write(made(seed=1), tmp_path))
    (run / "picture.png").unlink()
    (run / "picture.png").symlink_to(mine / "picture.png")
    film = run / "videos" / "000000010_train.mp4"
    film.write_text(f"ffconcat version 1.0\nfile '{mine / 'videos' / film.name}'\n")
    page = page_of(run, out=tmp_path)
    assert "picture.png is a link, which may lead anywhere" in page.text
    assert "000000010_train.mp4 is damaged" in page.text


def test_damaged_pieces_are_named_and_end_nothing_else(tmp_path):
    good, half = (fill(write(made(seed=seed), tmp_path)) for seed in (0, 1))
    with (half / "metrics.jsonl").open("a") as file:
        file.write('{"step": 20, "eval/tra')
    (half / "evaluations" / "broken.json").write_text('{"worlds": {"train"')
    (half / "evaluations" / "odd.json").write_text('{"step": 3, "seed": 0, "worlds": {"train": 4}}')
    (half / "evaluations" / "list.json").write_text("[" * 100_000)
    for damaged in (half / "picture.png", half / "videos" / "000000010_train.mp4"):
        damaged.write_bytes(damaged.read_bytes()[: damaged.stat().st_size // 2])
    (half / "analysis").mkdir()
    for name in ANALYSES:
        content = '{"step": 10}' if name == "theorem1" else "null"
        (half / "analysis" / f"{'association_x' if name == 'association' else name}.json").write_text(content)
    bad, old, odd, early = (write(made(seed=seed, scores=(1, 2) if seed < 5 else ()), tmp_path) for seed in range(2, 6))
    (bad / "metrics.jsonl").write_text('{"step": 0}\nnonsense\n' + (bad / "metrics.jsonl").read_text())
    (bad / "meta.json").write_text("3")
    (old / "config.json").write_text('{"method": "alda"}')
    (odd / "metrics.jsonl").write_text('{"step": "x", "eval/train/return": 3}\n')
    page = page_of(good, half, bad, old, odd, early, out=tmp_path)
    for words in (
        "The last line of metrics.jsonl was cut off",
        "broken.json is damaged",
        "odd.json: damaged, TypeError",
        "list.json is damaged",
        "picture.png is damaged",
        "000000010_train.mp4 is damaged",
        "meta.json is damaged: it holds no JSON object",
        "traversal.json is damaged",
        "theorem1.json: damaged, KeyError: 'premise'",
        f"Not in the overview: {bad / 'metrics.jsonl'} is damaged at line 2",
        "was not written by this version of alda",
        f"Not in the overview: the records of {odd} are damaged: not every step is a whole number",
        f"Not in the overview: {early} has no evaluation yet",
    ):
        assert words in page.text, words
    assert page.table("task")[1][5] == "2"  # seeds: the good one and the one whose last line is lost
    assert page.text.count("procedural-v1") == 2  # what is whole is shown
    alone = page_of(early, out=tmp_path)
    assert "No run has scores that can be used" in alone.text


def test_without_matplotlib_the_rest_of_the_page_is_there(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    page = page_of(*(write(made(seed=seed), tmp_path) for seed in (0, 1)), out=tmp_path)
    assert page.text.count("this needs matplotlib") == 3  # the overview and each run
    assert len(page.table("task")) == 3


def test_what_differs_from_the_defaults_comes_first(tmp_path):
    run = made(ALDAConfig(beta=50.0, num_latents=20), action_repeat=2, seed=8, scores=(1, 2), steps=20, eval_episodes=3)
    page = page_of(write(run, tmp_path), out=tmp_path)
    assert page.table("differs from the default")[1:] == [
        ["agent.num_latents", "20", "12"],
        ["agent.beta", "50.0", "100.0"],
        ["env.action_repeat", "2", "4"],
        ["eval_episodes", "3", "10"],
    ]
    plain = page_of(write(made(seed=9), tmp_path), out=tmp_path)
    assert "Everything is at the defaults of alda." in plain.text
    assert '"lambda_commit"' in plain.text


def test_what_is_missing_is_named_with_its_command_or_done_first(tmp_path, monkeypatch):
    run = write(made(path=Path("my run")), tmp_path)
    page = page_of(run, out=tmp_path)
    for command in (*(f"analyze {name}" for name in ANALYSES), "picture", "evaluate"):
        assert f"alda {command} '{run}'" in page.text
    fill(run)
    asked = []
    record = {"step": 999, "states": 2, "where": ["agent", "both"], "effect": [0.25, 0.125], "on_agent": [3.5, 1.0]}
    record |= {"spread": [0.5, None]}

    def traversal(run):
        """Look at latents."""
        asked.append(run)
        (run / "analysis").mkdir()
        (run / "analysis" / "traversal.json").write_text(json.dumps(record))
        Image.new("RGB", (1200, 3), "red").save(run / "analysis" / "traversal.png")

    def refuses(run):
        """Look at nothing."""
        raise UserError("there is nothing to see")

    for name in ANALYSES:
        monkeypatch.setitem(ANALYSES, name, traversal if name == "traversal" else refuses)
    monkeypatch.chdir(tmp_path)
    page = page_of(Path("my run"), out=tmp_path, analyze=True)
    row = ["video_easy", "12.3", "1.3 to 20.0", "1.0", "23.7", "2", "procedural-v1", "of the task"]
    assert page.table("shift")[1] == row
    assert page.text.count("Could not be done: there is nothing to see.") == len(ANALYSES) - 1
    assert "traversal.json: after 999 agent steps, 2 states." in page.text
    rows = [["0", "agent", "0.250", "3.500", "0.500"], ["1", "both", "0.125", "1.000", DASH]]
    assert page.table("latent")[1:] == rows
    shown = [image["src"] for image in page.named("img")]
    for file in (run / "analysis" / "traversal.png", run / "picture.png"):
        assert f"data:image/png;base64,{base64.b64encode(file.read_bytes()).decode()}" in shown
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 1234}\n')
    page = page_of(run, out=tmp_path, analyze=True)
    assert asked == [run]  # what is there is not done again
    assert "after 999 agent steps, 2 states; the run has gone on to step 1,234." in page.text


def test_main_numbers_are_read_from_what_analyses_write(replay):
    assert list(NUMBERS) == list(ANALYSES)
    rng = np.random.default_rng(0)
    d, e = rng.normal(size=(200, 2)), rng.normal(size=(200, 2))
    agent, obs = make_agent("alda"), replay.sample(4).obs
    view = View(agent, obs)
    effects = rng.uniform(size=(2, 3, 8, 8))
    theorem = {"premise": {"delta_q": 0.5, "delta_pi": 0.25}, "sensitivity": [1.0, 2.0]}
    of_code = {"linear from code": {"height": 0.75, "speed": None}}
    written = {
        "trajectory": {"variables": ["height", "speed"], "r2_mean": {"linear from code": 150.25}, "r2": of_code},
        "traversal": localise(effects, effects[:, 0] > 0.5),
        "association": {"shift": "color_hard", **compare(agent, view, View(agent, obs))},
        "disentanglement": {"independent": measure_disentanglement(d, e, names=["x", "y"])},
        "theorem1": theorem | measure_theorem(d, e, d, sensitivity=np.array([1.0, 2.0]), permutations=20),
    }
    found = {name: list(NUMBERS[name](json.loads(json.dumps(numbers)))) for name, numbers in written.items()}
    values = {name: {row[0]: row[1:] for table in tables for row in table["rows"]} for name, tables in found.items()}
    assert values["traversal"]["2"][1] == number(float(f"{effects[:, 2].mean():.4g}"))
    assert values["association"]["code"][1] == values["association"]["Q, in its standard deviations"][1] == "0.000"
    assert values["association"]["retrieves the same value as in train"] == ["1.000"]
    assert values["trajectory"] == {"mean R2": ["150.2"], "height": ["0.750"], "speed": [DASH]}
    assert "infoe" not in values["disentanglement"]  # but what it is in samples that it was not fitted to
    assert values["disentanglement"]["samples"] == ["200"]
    assert values["disentanglement"]["mig"] == [number(written["disentanglement"]["independent"]["mig"])]
    assert values["theorem1"]["t1 excess"] == [number(written["theorem1"]["summary"]["t1_excess"])]


def test_bad_paths_are_refused_with_a_sentence(tmp_path, capsys):
    run = write(made(), tmp_path)
    with pytest.raises(UserError, match=r"is written as a .html file"):
        report((run,), out=tmp_path / "page.pdf")
    with pytest.raises(UserError, match="none can be made"):
        report((run,), out=run / "config.json" / "page.html")
    out = tmp_path / "deep" / "page.html"
    run_command(["report", str(run), "--out", str(out)])
    assert f"written to {out}, {out.stat().st_size / 1e6:.1f} MB" in capsys.readouterr().out
    assert [file.name for file in out.parent.iterdir()] == ["page.html"]  # no half-written file beside it
