"""`alda figure`."""

from pathlib import Path

from alda.analysis.runs.paper import draw_figure


def figure(
    number: str,
    runs: tuple[Path, ...],
    /,
    *,
    out: Path = Path("figures"),
    shifts: tuple[str, ...] = (),
    mix: bool = False,
) -> None:
    """Draw a figure of the paper from your runs, with the table it is drawn from.

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
        mix: Also average scores that were made in different ways (simulator, renderer, visuals, background, action
            repeat, image size, settings); the figure says so.
    """
    draw_figure(number, runs, out=out, shifts=shifts, mix=mix)
