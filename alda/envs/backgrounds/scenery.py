"""Scenery of the generated clips: painted landscapes and surfaces, what grows in front of them, bodies that pass by.

All is defined in views (1.0 is the width of a frame) on a torus, so that a picture has no edge and is the same at every
size.
"""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32

SPAN = 2  # views around a torus
MODES = 56  # cycles around a torus of the finest texture: just below the Nyquist limit at 64 pixels
LOWEST = 1.3  # views down to the lower edge of a landscape
EDGE = 0.02  # views over which a painted edge fades

Planes = Float32[np.ndarray, "_ _ _"]  # red, green, blue, weighted by opacity; then transparency
Mask = Float32[np.ndarray, "_ _"]


class Family(NamedTuple):
    """The colours of one kind of place: surfaces from dark to light, sky from zenith to horizon, things."""

    surface: str
    sky: str
    things: str
    skyline: str = "hills"


FAMILIES = {
    "forest": Family("1b2a12 3a5a2c 73923f c6d489", "9db9c4 e6ebdc", "5a4028 93a04a d9d2a0", "trees"),
    "sea": Family("12405e 22698c 55a3b8 e2f3ef", "6ea8dc f3efe2", "f4f4ee d8653a 22344a"),
    "sand": Family("85623c b68f5a d9b882 f5e6c2", "79aee0 f4e8d0", "5a4632 ae4f30 efe9dc"),
    "dusk": Family("2a2240 5d3c5a ad5f6c f5b077", "4a4678 fbb681", "f8cf86 2a1c30 c76a5c"),
    "street": Family("3c3d42 6f6e6d 9d9991 dad4c8", "a3bad0 ebebe6", "b8342f e0b43c 2c4a78", "blocks"),
    "snow": Family("6f859c adbfcf dde7ee fbfcfc", "8bb2de eff3f6", "3c4a3c 8a3a34 2f5a8c", "trees"),
    "flowers": Family("28481f 50803a 8cae54 d2de9c", "9fcbea f2f6f0", "e0508c f4d03c f4f0ee"),
    "night": Family("141a30 2c3560 6a6284 f0c080", "1a2248 6a5c80", "ffd27a ff8a50 9ad0ff", "blocks"),
    "autumn": Family("43261a 874a24 c9802f efcb74", "b2c6d2 f2ebda", "b83a1c e8a02c 5f6a2c", "trees"),
    "reef": Family("0a3f58 127490 3fadaa cdecc6", "1f8fba 8ad8de", "f08a3c f2d24a c84a78"),
    "rock": Family("3b3633 6b625a 9f9486 d8cfc2", "8aa6c2 e2e4e4", "7a4a34 b0a284 3f4f3a"),
    "savanna": Family("4f3f1e 8d7434 c2a750 eadf9c", "86b4d8 f6ecd2", "3f3a24 d8c8a0 8a5a34", "trees"),
    "hall": Family("4a2c22 8a5540 c0876a ecd0b4", "c8b49c f4e6d0", "2f5f6a e8d8b8 a83a2c", "blocks"),
    "meadow": Family("2f5a22 5f9238 98bc52 dfe6a0", "4f94dc e2eff6", "f0e060 ffffff c86aa0"),
}

# y, x, height and width of the parts of a walker, an animal, a car, a fish or bird and a bush, in radii
BODIES = (
    ((0.0, 0.0, 0.48, 0.24), (-0.66, 0.02, 0.18, 0.14), (0.68, -0.12, 0.4, 0.1), (0.66, 0.14, 0.38, 0.1)),
    ((0.0, 0.0, 0.3, 0.6), (-0.28, 0.62, 0.2, 0.24), (0.4, -0.4, 0.32, 0.09), (0.4, 0.36, 0.32, 0.09)),
    ((0.0, 0.0, 0.24, 0.85), (-0.3, -0.08, 0.22, 0.5), (0.24, -0.5, 0.17, 0.17), (0.24, 0.5, 0.17, 0.17)),
    ((0.0, 0.0, 0.22, 0.6), (-0.04, -0.62, 0.26, 0.16), (-0.2, 0.02, 0.2, 0.2), (0.16, 0.0, 0.12, 0.3)),
    ((0.0, 0.0, 0.5, 0.5), (-0.3, 0.35, 0.35, 0.35), (0.5, 0.0, 0.5, 0.08), (0.1, -0.3, 0.36, 0.4)),
)


class Way(NamedTuple):
    """A smooth periodic motion along one axis: whole turns around a period, and a sway."""

    start: float
    period: float
    turns: int = 0
    sway: float = 0.0
    cycles: int = 1
    phase: float = 0.0

    def at(self, t: float) -> float:
        sway = self.sway * math.sin(2 * math.pi * (self.cycles * t + self.phase))
        return (self.start + self.turns * self.period * t + sway) % self.period


class Layer(NamedTuple):
    """A picture and the motion that takes the window over it, or it over the window."""

    planes: Planes
    y: Way
    x: Way


def scene(rng: np.random.Generator, family: Family, size: int) -> tuple[list[Layer], list[Layer]]:
    """Paint the layers from back to front, and the bodies that pass."""
    surface, sky, things = (_colors(rng, stops) for stops in family[:3])
    n = SPAN * size
    landscape = bool(rng.random() < 0.55)
    scenery = _landscape(rng, surface, sky, family.skyline, n) if landscape else _surface(rng, surface, n)
    if rng.random() < (0.35 if landscape else 0.6):
        _scatter(rng, scenery, things, size, (0.55, 1.05) if landscape else (0.0, 2.0))
    if rng.random() < 0.3:
        scenery = _blur(scenery[:3], rng.uniform(0.008, 0.03) * size)
    pace = int(rng.choice([-2, -1, -1, 0, 0, 1, 1, 2]))
    x = _way(rng, pace, 0.35 if pace == 0 else 0.06)
    if landscape:
        y = Way(rng.uniform(0.12, 0.16), SPAN, 0, rng.uniform(0.02, 0.08), int(rng.integers(1, 4)), rng.uniform())
    else:
        y = _way(rng, int(rng.integers(-1, 2)), 0.12)
    layers = [Layer(_around(scenery, size)[:3], y, x)]
    if rng.random() < 0.45:
        faster = x._replace(turns=pace + int(np.sign(pace)), sway=1.6 * x.sway, start=rng.uniform(0, SPAN))
        growth = _growth(rng, surface[:3] * rng.uniform(0.5, 0.9), landscape, n)
        layers.append(Layer(_around(growth, size), y if landscape else y._replace(sway=1.5 * y.sway), faster))
    mottle = _texture(rng, n, 2 ** rng.uniform(2, 4), 1.8)
    bodies = [_body(rng, things, mottle, size, landscape) for _ in range(rng.integers(0, 4 - len(layers)))]
    return layers, bodies


def _way(rng: np.random.Generator, turns: int, sway: float) -> Way:
    return Way(rng.uniform(0, SPAN), SPAN, turns, rng.uniform(0.4, 1) * sway, int(rng.integers(1, 4)), rng.uniform())


def _colors(rng: np.random.Generator, stops: str) -> Float32[np.ndarray, "stops 3"]:
    """Return the colours of a family, each a little different in every clip."""
    colors = np.array([list(bytes.fromhex(stop)) for stop in stops.split()])
    colors = colors + rng.uniform(0.0, 0.3) * (colors.mean(1, keepdims=True) - colors)  # paler
    colors *= rng.uniform(0.9, 1.08, 3) * rng.uniform(0.92, 1.08, colors.shape)
    return np.clip(colors, 0, 255).astype(np.float32)


def _texture(rng: np.random.Generator, n: int, coarse: float, steep: float, stretch: float = 1.0) -> Mask:
    """Sample a periodic random field of unit variance: amplitude falls as frequency**-steep from `coarse` cycles on."""
    noise = rng.standard_normal((2, 2 * MODES + 1, MODES + 1), np.float32)
    ky, kx = np.arange(-MODES, MODES + 1)[:, None], np.arange(MODES + 1)[None]
    tilt = rng.uniform(-0.5, 0.5) if stretch > 1 else 0.0
    radius = np.hypot((kx + tilt * ky) * math.sqrt(stretch), (ky - tilt * kx) / math.sqrt(stretch))
    amplitude = (coarse**2 + radius**2) ** (-steep / 2) * (np.hypot(kx, ky) <= MODES) * (radius > 0)
    spectrum = np.zeros((n, n // 2 + 1), np.complex64)
    centred = np.exp(1j * np.pi / n * (kx + ky))  # values at pixel centres
    spectrum[ky % n, kx] = amplitude * (noise[0] + 1j * noise[1]) * centred
    field = np.fft.irfft2(spectrum, (n, n))
    return field / field.std()


def _line(rng: np.random.Generator, n: int, coarse: float, steep: float) -> Float32[np.ndarray, "n"]:
    """Sample a periodic random line of unit variance, as `_texture` does a field."""
    k = np.arange(1, MODES + 1)
    spectrum = np.zeros(n // 2 + 1, np.complex64)
    noise = rng.standard_normal((2, MODES), np.float32)
    spectrum[k] = (coarse**2 + k**2) ** (-steep / 2) * (noise[0] + 1j * noise[1]) * np.exp(1j * np.pi / n * k)
    line = np.fft.irfft(spectrum, n)
    return line / line.std()


def _ramp(tone: Mask, colors: Float32[np.ndarray, "stops 3"]) -> Float32[np.ndarray, "3 h w"]:
    """Turn tones of about unit variance into colours from the first to the last."""
    place = np.linspace(0, len(colors) - 1, 256)
    table = np.stack([np.interp(place, np.arange(len(colors)), c) for c in colors.T]).astype(np.float32)
    return table[:, np.clip(tone * 52 + 128, 0, 255).astype(np.uint8)]


def _step(x: np.ndarray) -> np.ndarray:
    """Return 0 below and 1 above, smooth over one unit around 0."""
    x = np.clip(x + 0.5, 0, 1)
    return x * x * (3 - 2 * x)


def _paint(planes: Planes, mask: np.ndarray | float, color: np.ndarray) -> None:
    """Mix an opaque colour [3, ...] into [r g b transparency], in place."""
    planes[3] *= 1 - mask
    planes[:3] += mask * (color - planes[:3])


def _blank(height: int, width: int) -> Planes:
    planes = np.zeros((4, height, width), np.float32)
    planes[3] = 1
    return planes


def _around(planes: Planes, size: int) -> Planes:
    """Repeat one view of the torus, so that every window is a slice."""
    n = SPAN * size
    rows = np.arange(n + size + 1 if planes.shape[1] == n else planes.shape[1]) % n  # a landscape has no way round
    return np.concatenate([planes, planes[:, :, : size + 1]], 2)[:, rows]


def _surface(rng: np.random.Generator, colors: np.ndarray, n: int) -> Planes:
    """Paint ground, water or foliage seen from near."""
    coarse, stretch = 2 ** rng.uniform(1, 4), 2 ** rng.uniform(0, 2.5)
    fine = _texture(rng, n, coarse, rng.uniform(1.4, 2.4), stretch)
    form = rng.integers(3)
    tone = fine if form == 0 else (1.6 - 2.4 * np.abs(fine)) * (1 if form == 1 else -1)
    broad = _texture(rng, n, 1.5, 2.5)
    planes = _blank(n, n)
    step = max(n // 128, 1)
    lit = np.roll(fine, (step, step), (0, 1)) - np.roll(fine, (-step, -step), (0, 1))
    shade = 1 + rng.uniform(0.05, 0.25) * np.clip(lit / lit.std(), -2.5, 2.5)
    _paint(planes, 1.0, _ramp(0.75 * tone + 0.6 * broad, colors) * shade)
    return planes


def _landscape(rng: np.random.Generator, colors: np.ndarray, sky: np.ndarray, skyline: str, n: int) -> Planes:
    """Paint a sky with clouds, one to three skylines that fade with distance, and ground in perspective."""
    y = ((np.arange(int(LOWEST * n / SPAN), dtype=np.float32) + 0.5) * SPAN / n)[:, None]
    planes = _blank(len(y), n)
    horizon = rng.uniform(0.45, 0.85)
    _paint(planes, 1.0, _ramp(np.broadcast_to(4.6 * y / horizon - 2.3, planes.shape[1:]), sky))
    clouds = _texture(rng, n, 2.0, 1.9, 2.5)[: len(y)]
    cover = rng.uniform(0.2, 0.9) * _step(0.7 * clouds - rng.uniform(-0.3, 0.8))
    _paint(planes, cover, (128 + 0.5 * sky[-1])[:, None, None] * (0.96 + 0.04 * clouds))
    detail = _texture(rng, n, 2 ** rng.uniform(1, 4), rng.uniform(1.4, 2.0))[: len(y)]
    count = int(rng.integers(1, 4))
    for i in range(count):
        near = (i + 1) / count
        edge, tone = _outline(rng, skyline if near == 1 or skyline == "blocks" else "hills", y, n)
        edge += horizon - rng.uniform(0.02, 0.12) * (count - i)
        haze = 0.65 * (1 - near) + 0.1
        rough = (0.2 if skyline == "blocks" else 0.7) * np.roll(detail, i * n // 8, 1)
        slope = _ramp(rough + tone - 1.6 * near + 0.4, colors)
        _paint(planes, _step((y - edge) / EDGE), slope * (1 - haze) + haze * sky[-1][:, None, None])
    rows = (0.35 * n / (np.maximum(y[:, 0] - horizon, 0) + 0.12)).astype(int) % n
    tone = rng.uniform(0.2, 0.9) * _texture(rng, n, 2 ** rng.uniform(1, 3.5), rng.uniform(1.4, 2.6))[rows]
    tone += rng.uniform(-0.5, 0.7) + 0.8 * (y - horizon)
    _paint(planes, _step((y - horizon) / EDGE), _ramp(tone, colors))
    return planes


def _outline(rng: np.random.Generator, kind: str, y: np.ndarray, n: int) -> tuple[np.ndarray, Mask]:
    """Return the upper edge of hills, trees or blocks against their base, and the tones of their faces."""
    if kind != "blocks":
        line = _line(rng, n, 3.0, 2.1) if kind == "hills" else _line(rng, n, 12.0, 1.1)
        return -(0.12 + 0.06 * line if kind == "hills" else 0.2 + 0.08 * line), np.zeros((1, 1), np.float32)
    x = ((np.arange(n, dtype=np.float32) + 0.5) / n)[None]
    block = np.searchsorted(np.sort(rng.uniform(0, 1, 13)), x[0])
    heights, tones = rng.uniform(0.05, 0.5, 14).astype(np.float32), rng.uniform(-1, 1, 14).astype(np.float32)
    floors, axes = (2 * np.pi * rng.integers(6, 14, 14).astype(np.float32) for _ in range(2))
    windows = np.sin(y * floors[block]) * np.sin(x * 4 * axes[block])
    return -heights[block], tones[block] + rng.uniform(0.5, 2.2) * _step(2 * (windows - 0.35))


def _growth(rng: np.random.Generator, colors: np.ndarray, landscape: bool, n: int) -> Planes:
    """Paint what is near the camera: plants along the lower edge, or clumps all over."""
    texture = _texture(rng, n, 2 ** rng.uniform(2, 4), 1.6)
    if landscape:
        texture = texture[: int(LOWEST * n / SPAN)]
        y = ((np.arange(len(texture)) + 0.5) * SPAN / n)[:, None]
        mask = _step((y - 1.0 + 0.12 * _line(rng, n, 6.0, 1.4)) / EDGE + 0.6 * texture)
    else:
        clumps = _texture(rng, n, 2 ** rng.uniform(1, 2.5), 2.2)
        mask = _step(rng.uniform(0.8, 4) * (clumps - rng.uniform(0.8, 1.3)))
    planes = _blank(*mask.shape)
    _paint(planes, mask.astype(np.float32), _ramp(0.8 * texture, colors))
    return planes


def _scatter(
    rng: np.random.Generator, planes: Planes, colors: np.ndarray, size: int, between: tuple[float, float]
) -> None:
    """Paint flowers, stones or lamps: many small shapes of about one size, at heights `between`."""
    typical, slim = rng.uniform(0.02, 0.1), 2 ** rng.uniform(-1, 1)
    form = typical * np.array([1, slim]) / max(1, slim)
    shapes = [_shape(rng, size, *(form * 2**grown)) for grown in (-0.9, -0.5, -0.1, 0.3, 0.7)]
    for depth in np.sort(rng.uniform(0, 1, int(rng.uniform(0.5, 1.5) / typical))):  # far and small ones first
        mask, shade = shapes[int(5 * depth)]
        color = colors[rng.integers(3)] * rng.uniform(0.8, 1.1)
        y, x = between[0] + depth * (between[1] - between[0]), rng.uniform(0, SPAN)
        _stamp(planes, mask, shade * color[:, None, None], y, x, size)


def _body(rng: np.random.Generator, colors: np.ndarray, mottle: Mask, size: int, landscape: bool) -> Layer:
    """Paint something that moves by itself, facing where it goes."""
    radius, stretch = rng.uniform(0.13, 0.3), 2 ** rng.uniform(-0.3, 0.3)
    turns = int(rng.choice([-3, -2, -1, 1, 2, 3]))
    parts = np.array(BODIES[rng.integers(len(BODIES))]) * rng.uniform(0.8, 1.2, 4) * radius
    parts *= [stretch, math.copysign(1, turns) / stretch, stretch, 1 / stretch]
    reach = np.max(1.4 * parts[:, 2:] + np.abs(parts[:, :2]), 0)
    half = [math.ceil(r * size) + 3 for r in reach]
    planes, palette = _blank(2 * half[0], 2 * half[1]), rng.permutation(colors)
    for i, (y, x, height, width) in enumerate(parts):
        mask, shade = _shape(rng, size, height, width)
        color = (palette[0] if i < 2 else 0.4 * palette[0] + 0.25 * palette[1]) * rng.uniform(0.7, 1.05)
        _stamp(planes, mask, shade * color[:, None, None], half[0] / size + y, half[1] / size + x, size)
    planes[:3] *= np.clip(1 + rng.uniform(0.1, 0.3) * mottle[: 2 * half[0], : 2 * half[1]], 0.2, 1.8)
    y, x = (1 + 2 * float(r) for r in reach)  # from just outside the view to just outside again
    height = float(reach[0]) + rng.uniform(0.5 if landscape else 0.2, 0.85)
    up_down = Way(height, y, 0, rng.uniform(0.01, 0.08), int(rng.integers(1, 7)), rng.uniform())
    return Layer(planes, up_down, _way(rng, turns, 0.15)._replace(period=x))


def _blur(planes: Planes, sigma: float) -> Planes:
    """Blur by `sigma` pixels."""
    ky, kx = np.fft.fftfreq(planes.shape[1])[:, None], np.fft.rfftfreq(planes.shape[2])
    gain = np.exp(-2 * (np.pi * sigma) ** 2 * (ky**2 + kx**2)).astype(np.float32)
    return np.fft.irfft2(np.fft.rfft2(planes) * gain, planes.shape[1:])


def _shape(rng: np.random.Generator, size: int, height: float, width: float) -> tuple[Mask, Mask]:
    """Draw a soft-edged ellipse, box or irregular blob of these radii, and its shading by light from above."""
    halves = [math.ceil(1.4 * radius * size) + 2 for radius in (height, width)]
    v, u = ((np.arange(2 * h) + 0.5 - h) / (r * size) for h, r in zip(halves, (height, width), strict=True))
    v, u = v[:, None].astype(np.float32), u[None].astype(np.float32)
    power = int(rng.choice([2, 2, 3]))
    distance = (np.abs(u) ** power + np.abs(v) ** power) ** (1 / power)
    if power == 2:
        angle = np.arctan2(v, u)
        distance += sum(rng.normal(0, 0.2 / k) * np.cos(k * angle + rng.uniform(0, 6.28)) for k in (2, 3, 5))
    mask = _step((1 - distance) * min(height, width) / EDGE)
    shade = np.clip(0.9 - 0.25 * v + 0.12 * u, 0.3, 1.4)
    return mask.astype(np.float32), shade.astype(np.float32)


def _stamp(planes: Planes, mask: Mask, color: np.ndarray, y: float, x: float, size: int) -> None:
    """Paint a shape centred at (y, x), to the next 1/64 of a view, around the torus."""
    tops = (round(round(c * 64) * size / 64) - side // 2 for c, side in zip((y, x), mask.shape, strict=True))
    rows, columns = ((top + np.arange(s)) % n for top, s, n in zip(tops, mask.shape, planes.shape[1:], strict=True))
    where = np.ix_(range(len(planes)), rows, columns)
    part = planes[where]
    _paint(part, mask, color)
    planes[where] = part
