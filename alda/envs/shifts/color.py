"""color_easy and color_hard: floor, body and sky in other colours at every reset (Hansen & Wang, 2021).

The model is recoloured in place, which gives the same pixels as recompiling it with other colours in its XML. A table
of 100 colour settings is drawn once from Gaussians around the task's own colours; the spreads are those of the
published tables, which may be given as JSON files instead.
"""

import functools
import hashlib
import json
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Bool, Float, UInt8

from alda.envs.scene import Scene
from alda.envs.shifts.base import Shift, ShiftOptions
from alda.errors import UserError
from alda.files import read_json

ColorSetting = dict[str, list[float]]  # see KEYS; three numbers in [0, 1] each

KEYS = ("grid_rgb1", "grid_rgb2", "self_rgb", "skybox_rgb")
DEFAULT: ColorSetting = {
    "grid_rgb1": [0.1, 0.2, 0.3],
    "grid_rgb2": [0.2, 0.3, 0.4],
    "self_rgb": [0.7, 0.5, 0.3],
    "skybox_rgb": [0.4, 0.6, 0.8],
}
OWN_TABLES = "gaussian-v1"
SPREADS = {"color_easy": 0.1, "color_hard": 0.2}  # standard deviation of the offsets, before clipping to [0, 1]


class ColorShift(Shift):
    """Another colour setting of a table for floor, body and sky at every reset.

    options.data.color_table: a JSON file with a list of colour settings, or a folder holding color_easy.json and
    color_hard.json; None draws our own. Raises UserError for a file that is not such a table.
    """

    name: ClassVar[str]

    def __init__(self, options: ShiftOptions) -> None:
        super().__init__(options)
        given = options.data.color_table
        if given is None:
            self.table, self.colors = draw_table(self.name), OWN_TABLES
        else:
            self.table = read_table(given / f"{self.name}.json" if given.is_dir() else given)
            self.colors = f"table {hashlib.sha256(json.dumps(self.table).encode()).hexdigest()[:8]}"

    def reset(self, scene: Scene, rng: np.random.Generator) -> None:
        recolor(scene, self.table[rng.integers(len(self.table))])


class ColorEasy(ColorShift):
    """at every reset, other colours of floor, body and sky, not far from the task's own"""

    name = "color_easy"


class ColorHard(ColorShift):
    """at every reset, other colours of floor, body and sky, far from the task's own"""

    name = "color_hard"


def draw_table(name: str, size: int = 100) -> list[ColorSetting]:
    """Return our colour table `name`, always the same settings."""
    rng = np.random.default_rng(int.from_bytes(name.encode(), "little"))
    settings = []
    for _ in range(size):
        drawn = {
            key: np.clip(np.add(DEFAULT[key], rng.normal(0, SPREADS[name], 3)), 0, 1)
            for key in ("grid_rgb1", "self_rgb", "skybox_rgb")
        }
        drawn["grid_rgb2"] = np.clip(drawn["grid_rgb1"] + 0.1, 0, 1)
        settings.append({key: drawn[key].tolist() for key in KEYS})
    return settings


def read_table(path: Path) -> list[ColorSetting]:
    """Read colour settings from a JSON file. Raises UserError for a file that is no such table."""
    try:
        table = read_json(path)
    except (OSError, ValueError) as error:
        raise UserError(f"the colour table {path} could not be read: {error}") from error
    if not (isinstance(table, list) and table and all(map(_is_setting, table))):
        raise UserError(
            f"the colour table {path} must be a JSON list of colour settings, each with {', '.join(KEYS)}, which are "
            "three numbers in [0, 1]"
        )
    return table


def recolor(scene: Scene, setting: ColorSetting) -> None:
    """Give a suite model the colours of one setting, in place.

    setting: RGB in [0, 1] for each of KEYS; grid is the floor's checker, self the agent's body, skybox the sky at its
    zenith.
    """
    model = scene.physics.model
    model.mat_rgba[model.name2id("self", "material"), :3] = setting["self_rgb"]
    floor = np.empty_like(scene.texels("grid"))
    _checker(floor, setting["grid_rgb1"], setting["grid_rgb2"])
    scene.set_floor(floor)
    _sky(scene.texels("skybox"), setting["skybox_rgb"], scene.sky_factor)
    scene.upload("grid", "skybox")


def _checker(texels: UInt8[np.ndarray, "h w 3"], rgb1: list[float], rgb2: list[float]) -> None:
    """Paint MuJoCo's builtin checker: two squares of each colour, and an edge of one texel."""
    top, left = texels.shape[0] // 2, texels.shape[1] // 2
    texels[:] = _bytes(rgb2)
    texels[:top, :left] = texels[top:, left:] = _bytes(rgb1)
    texels[[0, -1]] = texels[:, [0, -1]] = _bytes(DEFAULT["grid_rgb2"])  # the mark keeps its colour


def _sky(texels: UInt8[np.ndarray, "h w 3"], rgb: list[float], factor: int) -> None:
    """Paint MuJoCo's builtin gradient: `rgb` above, black below, white speckles; six square faces, stacked.

    factor: texels of the model's own sky, each way, that one of these stands for.
    """
    size = texels.shape[1]
    faces = texels.reshape(6, size, size, 3)
    for share, where in zip(_sky_gradient(size), ([0, 1, 4, 5], [2], [3]), strict=True):
        for channel, level in enumerate(rgb):  # one after the other: four times as fast as all three at once
            faces[where, :, :, channel] = _bytes(share * level)
    if factor == 1:
        texels[_speckles(size)] = 255
    else:
        texels[:] = texels + _whiteness(size, factor) * (255.0 - texels)


@functools.cache
def _sky_gradient(size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the share of the upper colour in a side, the upper and the lower face, each [size, size]."""
    line = np.linspace(-1, 1, size)
    x, y = line[None, :], -line[:, None]
    norm = np.sqrt(1 + x**2 + y**2)
    side = np.arcsin(y / norm) / (np.pi / 2)
    up = 1 - np.arccos(1 / norm) / (np.pi / 2)
    return tuple(np.clip(0.5 * (1 + np.sqrt(2) * p / np.sqrt(1 + p**2)), 0, 1) for p in (side, up, -up))


@functools.cache
def _speckles(size: int) -> Bool[np.ndarray, "h w"]:
    """Return where MuJoCo puts the speckles of a sky of this size: the same texels in every model."""
    import mujoco

    sky = f'<texture type="skybox" builtin="gradient" width="{size}" height="{size}" mark="random" markrgb="1 1 1"/>'
    model = mujoco.MjModel.from_xml_string(f"<mujoco><asset>{sky}</asset></mujoco>")
    return (model.tex_data.reshape(-1, size, 3) == 255).all(-1)


@functools.cache
def _whiteness(size: int, factor: int) -> Float[np.ndarray, "h w 1"]:
    """Return the share of speckles in each texel that stands for `factor` of the model's own, each way."""
    return _speckles(size * factor).reshape(6 * size, factor, size, factor).mean((1, 3))[..., None]


def _bytes(color: Any) -> UInt8[np.ndarray, "..."]:
    """Return colours as MuJoCo stores them: cut off, not rounded."""
    return (255 * np.asarray(color)).astype(np.uint8)


def _is_setting(value: Any) -> bool:
    try:
        rgb = np.array([value[key] for key in KEYS], float)
    except (KeyError, TypeError, ValueError):
        return False
    return rgb.shape == (len(KEYS), 3) and bool(((rgb >= 0) & (rgb <= 1)).all())
