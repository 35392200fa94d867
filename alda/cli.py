"""The command line: alda <command> [options]. Each command is imported when it is called, so that help is instant."""

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from alda.envs.backgrounds.data import Data
from alda.errors import LearningError, UserError, WorkerError

if TYPE_CHECKING:
    from alda.config import Config


def train(words: list[str]) -> None:
    """train an agent on a task, or go on training it"""
    import tyro

    from alda.presets import presets
    from alda.sweep.seeds import train_seeds
    from alda.training.trainer import train as run

    choices = {name: (preset.description, preset.config) for name, preset in presets().items()}
    if words and not words[0].startswith("-"):
        _check_preset(words[0], words[1:], {name: config for name, (_, config) in choices.items()})
    config = tyro.extras.overridable_config_cli(choices, prog="alda train", args=words)
    (train_seeds if config.seeds else run)(config)


def _check_preset(name: str, words: list[str], configs: Mapping[str, "Config"]) -> None:
    """Say in a sentence what the parser of all presets would say in a page."""
    from alda.envs.tasks import unknown

    if name not in configs:
        raise UserError(unknown("preset", name, configs))
    if not hasattr(configs[name].agent, "codes") and any(word.startswith("--agent.codes") for word in words):
        raise UserError(
            f"the reward trains the encoder of {name}, so codes of frames cannot be stored; --agent.codes is for alda, "
            "qlae, bioae and darla"
        )


def evaluate(words: list[str]) -> None:
    """play a trained agent in chosen worlds: returns with confidence intervals"""
    import tyro

    @dataclass
    class Options:
        run: Annotated[Path, tyro.conf.Positional]
        """Run directory."""
        shifts: tuple[str, ...] = ("train", "color_easy", "color_hard")
        """Worlds to play in."""
        episodes: int = 20
        """Episodes per world."""
        seed: int = 0
        """Seed of the episodes; equal seeds give equal starting states for every agent and world."""
        device: str = "cpu"
        """Where the agent acts: cpu or cuda."""
        workers: int | None = None
        """Processes that play side by side; they change no score (None: one per core, at most 16; 0: this one)."""
        data: Data = field(default_factory=Data)
        generated: bool = False
        """Use generated backgrounds and colours, whatever folders the run names."""
        out: Path | None = None
        """JSON file to write (None: RUN/evaluations/step_STEP_seed_SEED.json, numbered where that holds others)."""

    options = tyro.cli(Options, prog="alda evaluate", description=evaluate.__doc__, args=words)
    from alda.commands.evaluate import evaluate_run

    evaluate_run(**vars(options))


def sweep(words: list[str]) -> None:
    """train and score every run of a study file: presets, tasks, seeds; goes on with what is unfinished"""
    import tyro

    @dataclass
    class Options:
        file: Annotated[Path, tyro.conf.Positional]
        """TOML file of a study (docs/studies.md)."""
        root: Path = field(default=Path("runs"))
        """Folder of studies; the runs are kept in ROOT/STUDY/TASK/METHOD/NAME/sSEED, where STUDY is the file's name."""
        jobs: int | None = None
        """Runs at a time (None: one per core, as far as memory and GPU memory reach)."""
        retries: int = 2
        """How often a run that died is tried again."""
        dry_run: bool = False
        """Only print the commands that the study stands for, what is finished, and the time and disk it still takes."""
        trial: bool = True
        """With --dry-run, try each kind of run that has not learned yet for some seconds, to tell the time it takes."""
        backend: Literal["local", "ray"] = "local"
        """Where runs run: processes on this machine, or on the nodes of a Ray cluster that share the study's folder."""
        address: str | None = None
        """Ray cluster, as HOST:PORT (None: RAY_ADDRESS, the one this machine belongs to, or a new one of it alone)."""
        gpu_share: float | None = None
        """Part of a GPU for each run on Ray, from 0 to 1 (None: as its memory allows)."""

    options = tyro.cli(Options, prog="alda sweep", description=sweep.__doc__, args=words)
    from alda.sweep.sweep import sweep as run

    run(**vars(options))


def picture(words: list[str]) -> None:
    """draw states of an episode as they are, as the agent reconstructs them, and the same in a shifted world"""
    import tyro

    @dataclass
    class Options:
        run: Annotated[Path, tyro.conf.Positional]
        """Run directory."""
        shift: str = "color_hard"
        """The shifted world."""
        states: int = 5
        """Number of states of one episode."""
        every: int | None = None
        """Agent steps between them (None: evenly spread over the episode)."""
        seed: int = 0
        """Seed of the episode."""
        out: Path | None = None
        """PNG file to write (None: RUN/picture.png)."""

    options = tyro.cli(Options, prog="alda picture", description=picture.__doc__, args=words)
    from alda.commands.evaluate import picture_run

    picture_run(**vars(options))


def export(words: list[str]) -> None:
    """write the policy of a run alone into a folder to pass on: weights, a PyTorch program, a model card"""
    import tyro

    @dataclass
    class Options:
        run: Annotated[Path, tyro.conf.Positional]
        """Run directory; it is read, and stays as it is."""
        out: Path | None = None
        """Folder to write, some 10 to 50 MB; an export that is there is replaced (None: RUN/export)."""

    options = tyro.cli(Options, prog="alda export", description=export.__doc__, args=words)
    from alda.export.bundle import export_run

    export_run(**vars(options))


def plot(words: list[str]) -> None:
    """draw the learning curves of runs: returns and reconstruction in every evaluated world"""
    import tyro

    @dataclass
    class Options:
        runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
        """Run directories."""
        out: Path | None = None
        """File to write, .png or .svg (None: curve.png in the first run directory)."""

    options = tyro.cli(Options, prog="alda plot", description=plot.__doc__, args=words)
    from alda.analysis.runs.learning_curves import plot_runs

    plot_runs(**vars(options))


def analyze(words: list[str]) -> None:
    """look inside a trained agent: `alda analyze --help` lists the questions"""
    from alda.analysis.commands import ANALYSES

    if words[:1] in ([], ["-h"], ["--help"]):
        lines = (f"  {name:16}{analysis.__doc__}" for name, analysis in ANALYSES.items())
        print("\n".join(["usage: alda analyze QUESTION RUN [options]", "", analyze.__doc__ or "", "", *lines]))
        print("\nalda analyze QUESTION --help lists the options of one.")
    elif words[0] not in ANALYSES:
        raise UserError(f"there is no analysis {words[0]!r}; there are {', '.join(ANALYSES)}")
    else:
        ANALYSES[words[0]](words[1:])


def represent(words: list[str]) -> None:
    """train autoencoders alone on a run's frames; what memory, clamp and normalisation each do in other worlds"""
    import tyro

    @dataclass
    class Options:
        runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
        """Run directories, one a task, whose policies visit the states; half of all frames are of random actions."""
        latents: tuple[str, ...] = ("associative", "quantized", "bio", "identity", "clamp", "fsq")
        """Latent models, by their names in --agent.latent."""
        norms: tuple[str, ...] = ("instance", "layer", "none")
        """Normalisations in encoder and decoder; each is combined with each latent model."""
        seeds: tuple[int, ...] = (0, 1, 2)
        """Seeds of the autoencoders; the frames are the same for all."""
        shifts: tuple[str, ...] = ("color_hard", "video_easy", "distracting_camera:0.1")
        """Worlds in which held-out states are seen as well."""
        frames: int = 10_000
        """Frames to learn from."""
        states: int = 400
        """Held-out states, 20 of each episode, that are seen in every world; a multiple of 40."""
        samples: int = 3_000
        """Frames with independent joints and colours, for InfoMEC and Theorem 1."""
        updates: int = 5_000
        """Learning steps of an autoencoder; on one CPU core each takes some 5 ms a frame of the batch."""
        batch_size: int = 128
        """Frames per learning step."""
        jobs: int | None = None
        """Autoencoders that learn at a time, each a process with an equal share of the cores (None: one a core)."""
        device: str | None = None
        """Where they learn: cpu or cuda (None: cuda where there is one)."""
        out: Path = field(default=Path("runs/representation"))
        """Folder of frames, results and their summary; the same command goes on with what is unfinished."""

    options = tyro.cli(Options, prog="alda represent", description=represent.__doc__, args=words)
    from alda.representation.study import Settings
    from alda.representation.study import represent as run

    given = vars(options)
    common = {name: given.pop(name) for name in ("shifts", "frames", "states", "samples", "updates", "batch_size")}
    run(**given, settings=Settings(**common))


def figure(words: list[str]) -> None:
    """draw a figure of ALDA's paper from runs of one's own, with the table it is drawn from"""
    import tyro

    @dataclass
    class Options:
        number: Annotated[str, tyro.conf.Positional]
        """3: ALDA, QLAE, BioAE. 4: blend or nearest value, values that learn or do not. 5: the main comparison, beside
        the published returns. 12: beta. 13: one code for the stack of frames. 15: the critic's gradient reaches the
        encoder. 16: number of latents. 17: SVEA trained on color_easy. aggregate: all methods over all tasks, by final
        scores: interquartile mean, mean, optimality gap, performance profile, probability of improvement. Which of 12
        to 17 is which is our reading: they are taken to follow the order of the paper's text. Of 4 only QLAE is
        certain."""
        runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
        """Run directories, or folders that hold some at any depth."""
        out: Path = field(default=Path("figures"))
        """Folder for figure_NUMBER.svg, .png, .csv and .json."""
        shifts: tuple[str, ...] = ()
        """Worlds to draw (none: all that the runs were evaluated in)."""
        mix: bool = False
        """Average scores that were made in different ways (simulator, renderer, visuals, background, action repeat,
        image size, settings) as well; the figure says so."""

    options = tyro.cli(Options, prog="alda figure", description=figure.__doc__, args=words)
    from alda.analysis.runs.paper import draw_figure

    draw_figure(**vars(options))


def inspect(words: list[str]) -> None:
    """look into a trained agent in the browser: move its latents, see states in other worlds"""
    import signal

    import tyro

    @dataclass
    class Options:
        run: Annotated[Path, tyro.conf.Positional]
        """Run directory."""
        port: int = 8000
        """Port of this machine under which the page is (0: any free one)."""
        seed: int = 0
        """Seed of the episode whose states are looked at."""
        browser: bool = True
        """Open the page; otherwise its address is only printed."""

    options = tyro.cli(Options, prog="alda inspect", description=inspect.__doc__, args=words)
    from alda.analysis.inspector import inspect_run

    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # closes simulators
    inspect_run(**vars(options))


def compare(words: list[str]) -> None:
    """put the scores of runs beside the published ones: intervals, bands, a verdict, what else differs"""
    import tyro

    @dataclass
    class Options:
        runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
        """Run directories or records of them, or folders that hold some at any depth."""
        out: Path | None = None
        """File to write the same table to, .csv, .json or .md (None: none)."""
        mix: bool = False
        """Average scores that were made in different ways (simulator, renderer, visuals, background, action repeat,
        image size, settings) as well; the table says so."""

    options = tyro.cli(Options, prog="alda compare", description=compare.__doc__, args=words)
    from alda.analysis.runs.reproduction import compare_runs

    compare_runs(**vars(options))


def results(words: list[str]) -> None:
    """`alda results add`: keep small records of runs, from which figures, tables and reports are made again"""
    import tyro

    @dataclass
    class Options:
        runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
        """Run directories, or folders that hold some at any depth; runs that are over."""
        to: Path = field(default=Path("results"))
        """Folder of all records."""
        name: str = "study"
        """Folder in it for records that belong together: NAME/TASK/METHOD/VARIANT/sSEED."""

    if words[:1] != ["add"]:
        if words not in (["-h"], ["--help"], []):
            raise UserError(f"there is no command 'results {words[0]}'; there is `alda results add`")
        words = ["add", "--help"]
    options = tyro.cli(Options, prog="alda results add", description=results.__doc__, args=words[1:])
    from alda.analysis.runs.archive import add_results

    add_results(**vars(options))


def report(words: list[str]) -> None:
    """gather what runs have shown into one HTML page that opens offline: scores, curves, pictures, analyses"""
    import tyro

    @dataclass
    class Options:
        runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
        """Run directories, or folders that hold some at any depth."""
        out: Path = field(default=Path("report.html"))
        """HTML file to write."""
        analyze: bool = False
        """First do the analyses that are missing, with their defaults: minutes to hours a run."""
        mix: bool = False
        """Average scores that were made in different ways (simulator, renderer, visuals, background, action repeat,
        image size, settings) as well; the report says so."""

    options = tyro.cli(Options, prog="alda report", description=report.__doc__, args=words)
    from alda.analysis.report.page import write_report

    write_report(**vars(options))


def envs(words: list[str]) -> None:
    """list tasks and visual shifts; `alda envs preview` draws a task in every world"""
    import tyro

    from alda.envs.preview import list_worlds, preview
    from alda.envs.rendering import Profile
    from alda.envs.scene import Visuals

    @dataclass
    class Options:
        out: Path
        """PNG file to write."""
        task: str = "walker_walk"
        """dm_control task: domain and task, as in cartpole_balance or ball_in_cup_catch."""
        shifts: tuple[str, ...] = ()
        """Worlds to draw (none: all that cover the task)."""
        times: int = 8
        """Pictures of each world."""
        every: int = 10
        """Agent steps between them."""
        seed: int = 0
        """Seed of the episode, its actions and its worlds."""
        video: bool = False
        """Also write all worlds side by side as a clip, beside the picture."""
        data: Data = field(default_factory=Data)
        image_size: int = 64
        """Side of a frame in pixels."""
        visuals: Visuals = "classic"
        """Floors as simulators drew them when the benchmarks were made (classic), or as MuJoCo does today (native)."""
        profile: Profile | None = None
        """Rendering quality (None: near on software rendering, exact on a GPU)."""
        reference: bool = False
        """Reproduce the pixels of the benchmarks' own code where ours differ on purpose."""

    @dataclass
    class Nothing:
        pass

    if words[:1] == ["preview"]:
        description = "draw one episode of a task in every world: shifts by time"
        preview(**vars(tyro.cli(Options, prog="alda envs preview", description=description, args=words[1:])))
    else:
        tyro.cli(Nothing, prog="alda envs", description=envs.__doc__, args=words)
        list_worlds()


def data(words: list[str]) -> None:
    """`alda data check`: what is there of real backgrounds, what is missing and where to get it; shrinks it once"""
    import tyro

    from alda.envs.backgrounds.data_check import check

    @dataclass
    class Options:
        data: Data = field(default_factory=Data)
        image_size: int = 64
        """Side of a frame in pixels, as in training."""

    if words[:1] != ["check"]:
        if words not in (["-h"], ["--help"], []):
            raise UserError(f"there is no command 'data {words[0]}'; there is `alda data check`")
        words = ["check", "--help"]
    options = tyro.cli(Options, prog="alda data check", description=data.__doc__, args=words[1:])
    sys.exit(check(options.data, size=options.image_size))


def demo(words: list[str]) -> None:
    """train ALDA for some six minutes on two cores; ends with a learning curve, a table, pictures and a video"""
    import tyro

    @dataclass
    class Options:
        out: Path = field(default=Path("demo"))
        """Folder for the run and its pictures."""
        steps: int = 16_000
        """Agent steps to train for."""
        seed: int = 0
        """Seed of everything random."""

    options = tyro.cli(Options, prog="alda demo", description=demo.__doc__, args=words)
    from alda.commands.demo import demo as run

    run(**vars(options))


def doctor(words: list[str]) -> None:
    """check this machine: renderer and its speed, versions, memory, GPU"""
    import tyro

    @dataclass
    class Options:
        renderer_only: bool = False
        """Only check that something renders, and say nothing if so."""

    options = tyro.cli(Options, prog="alda doctor", description=doctor.__doc__, args=words)
    from alda.commands.doctor import doctor as check

    sys.exit(check(**vars(options)))


def bench(words: list[str]) -> None:
    """measure speed and memory of methods on this machine, plain beside fast: minutes a method, repo longer"""
    import signal

    import tyro

    @dataclass
    class Options:
        methods: tuple[str, ...] = ("alda",)
        """Methods and variants to measure, by their names in `alda train`; all: every method."""
        task: str = "walker_walk"
        """dm_control task whose environment is stepped."""
        batch_size: int | None = None
        """Transitions per update (None: each method's own; repo counts sequences)."""
        rounds: int = 5
        """Blocks of updates, and of environment steps, for each speed; plain and fast take turns."""
        seconds: float = 3.0
        """Seconds that a block of updates takes at least; one of environment steps takes a third of it."""
        lap: int | None = None
        """Agent steps between evaluations of the training run that is timed end to end, even (None: 8 on cpu, 1000 on
        cuda). Evaluation takes half as many steps, as in the paper's run, where a lap has 10,000."""
        laps: int = 2
        """Laps of that run that count; one more comes before them, which compiles and acts at random."""
        device: str | None = None
        """Where agents live: cpu or cuda (None: cuda where there is one)."""
        out: Path | None = None
        """JSON file to write, with every block's numbers (None: none)."""

    options = tyro.cli(Options, prog="alda bench", description=bench.__doc__, args=words)
    from alda.bench import bench as run

    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # leaves no process or file behind
    run(**vars(options))


COMMANDS: dict[str, Callable[[list[str]], None]] = {
    command.__name__: command
    for command in (
        *(train, sweep, evaluate, picture, export, plot, analyze, inspect, represent),
        *(figure, compare, results, report, envs, data, demo, doctor, bench),
    )
}


def main() -> None:
    """Entry point. Exit codes: 0 done, 1 failed, 2 wrong input, 128 + n stopped by signal n."""
    command, *words = sys.argv[1:] or ["--help"]
    if command in ("-h", "--help"):
        print(_help())
    elif command == "--version":
        from alda import __version__

        print(__version__)
    elif command not in COMMANDS:
        sys.exit(_refuse(f"there is no command {command!r}; the commands are {', '.join(COMMANDS)}"))
    else:
        try:
            COMMANDS[command](words)
        except UserError as error:
            sys.exit(_refuse(str(error)))
        except (OSError, WorkerError, LearningError) as error:
            print(f"alda: {error}", file=sys.stderr)
            sys.exit(1)
        except KeyboardInterrupt:
            sys.exit(130)


def _help() -> str:
    return "\n".join(
        [
            "usage: alda COMMAND [options]",
            "",
            "Agents that act from pixels and keep working when the world looks different.",
            "",
            *(f"  {name:10} {command.__doc__}" for name, command in COMMANDS.items()),
            "",
            "alda COMMAND --help lists the options of a command, alda train alda --help those of a method.",
        ]
    )


def _refuse(message: str) -> int:
    print(f"alda: {message}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    main()
