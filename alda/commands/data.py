"""`alda data check`."""

from alda.envs.backgrounds.data import NO_PATHS, Data
from alda.envs.backgrounds.data_check import check as check_data


def check(*, data: Data = NO_PATHS, image_size: int = 64) -> int:
    """Report which real backgrounds are there, what is missing and where to get it; shrinks them once.

    Args:
        image_size: Side of a frame in pixels, as in training.
    """
    return check_data(data, size=image_size)
