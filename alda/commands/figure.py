"""`alda figure`."""

from pathlib import Path

from alda.analysis.libraries import optional
from alda.analysis.runs.aggregates import aggregate_table, draw_aggregates
from alda.analysis.runs.comparison import compare
from alda.analysis.runs.curves import AGGREGATE
from alda.analysis.runs.figures import add_caption, curve_table, draw_curves, print_returns, record_of, write_csv
from alda.analysis.runs.table import load_runs
from alda.files import write_json
from alda.pictures import save_picture


def figure(
    number: str,
    runs: tuple[Path, ...],
    /,
    *,
    out: Path = Path("figures"),
    shifts: tuple[str, ...] = (),
    at: tuple[int, ...] = (),
    mix: bool = False,
) -> None:
    """Draw a figure of the paper from your runs, with the table it is drawn from.

    Curves are means over seeds with 95 % bootstrap intervals, at the steps that all seeds share.

    Args:
        number: 3: ALDA, QLAE, BioAE. 4: blend or nearest value, learned or fixed values. 5: the main comparison, beside
            the published returns. 12: beta. 13: one code for the stack of frames. 15: the critic's gradient reaches the
            encoder. 16: number of latents. 17: SVEA trained on color_easy. aggregate: all methods over all tasks, by
            final scores: interquartile mean, mean, optimality gap, performance profile, probability of improvement.
            Which of 12 to 17 is which is our reading: they are taken to follow the order of the paper's text. Of 4
            only QLAE is certain.
        runs: Run directories, or folders that hold some at any depth.
        out: Folder for figure_NUMBER.svg, .png, .csv and .json.
        shifts: Visual shifts to draw (none: all that the runs were evaluated under).
        at: Agent steps at which to print mean returns too, with 95 % intervals over seeds, above published ones (there
            are some at 50000, 100000 and 500000).
        mix: Also average scores that were made in different ways (simulator, renderer, visuals, background, action
            repeat, image size, settings); the figure says so.
    """
    optional("matplotlib.figure", "plot")  # better to know now than after reading all runs
    from matplotlib import rc_context

    made = compare(number, *load_runs(runs), shifts=shifts, mix=mix)
    if number == AGGREGATE:
        rows = aggregate_table(made)
        drawing = draw_aggregates(made, rows)
        about = [
            "Final scores, the means of a run's last five evaluations, as shares of the highest possible return.",
            "Bars and bands are 95 % bootstrap intervals over the seeds of every task.",
        ]
    else:
        rows = curve_table(made)
        drawing = draw_curves(made)
        about = ["Means over seeds with 95 % bootstrap intervals; thin lines are single seeds."]
        if made.marks:
            about.append(f"Published: {'; '.join(dict.fromkeys(marks[0].source for marks in made.marks.values()))}.")
    add_caption(drawing, made, about)

    out.mkdir(parents=True, exist_ok=True)
    stem = out / f"figure_{number}"
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "alda"}):  # text stays text; neither file names the time
        save_picture(drawing, stem.with_suffix(".svg"), metadata={"Date": None})
        save_picture(drawing, stem.with_suffix(".png"), dpi=150)
    write_csv(stem.with_suffix(".csv"), rows)
    write_json(stem.with_suffix(".json"), record_of(number, made, rows))
    if at:
        print_returns(made, at)
    print(f"written to {stem}.svg, .png, .csv and .json")
    for line in made.notes():
        print(line)
