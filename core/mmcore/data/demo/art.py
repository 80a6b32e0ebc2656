"""What the sample scenes are painted with: muted backgrounds and six objects that are easy to tell apart."""

import math
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw, ImageFont

Colour = tuple[int, int, int]
Points = list[tuple[float, float]]

_MUTED: tuple[Colour, ...] = (
    (205, 214, 222), (222, 212, 198), (186, 201, 188), (208, 196, 214), (176, 190, 205), (196, 186, 174),
    (150, 164, 152), (168, 160, 180), (226, 224, 216), (138, 150, 168),
)  # fmt: skip


def background(rng: np.random.Generator, width: int, height: int) -> Image.Image:
    """A muted scene: outdoors, a plain wall, planks, tiles or soft blotches, with a little noise."""
    paint = [_outdoors, _wall, _planks, _tiles, _blotches][int(rng.integers(5))]
    canvas = paint(rng, width, height) + rng.normal(0, 3, (height, width, 1))
    return Image.fromarray(np.clip(canvas, 0, 255).astype(np.uint8))


def _muted(rng: np.random.Generator) -> np.ndarray:
    return np.asarray(_MUTED[int(rng.integers(len(_MUTED)))], np.float64) + rng.uniform(-10, 10, 3)


def _wall(rng: np.random.Generator, width: int, height: int) -> np.ndarray:
    ramp = np.linspace(0, 1, height)[:, None, None] if rng.random() < 0.5 else np.linspace(0, 1, width)[None, :, None]
    first, second = _muted(rng), _muted(rng)
    return np.broadcast_to(first + (second - first) * ramp * rng.uniform(0.2, 1.0), (height, width, 3)).copy()


def _outdoors(rng: np.random.Generator, width: int, height: int) -> np.ndarray:
    """Sky with clouds above rolling ground."""
    rows = np.linspace(0, 1, height)[:, None, None]
    sky = np.array([150, 190, 228]) + rows * np.array([60, 40, 15]) + _smooth(rng, width, height, 5)[..., None] * 14
    columns = np.arange(width)
    wave = np.sin(columns / width * rng.uniform(3, 7) + rng.uniform(0, 6))
    horizon = height * rng.uniform(0.6, 0.85) + 4 * wave
    ground = np.array([132, 160, 104]) + rng.uniform(-18, 18, 3) + _smooth(rng, width, height, 12)[..., None] * 10
    return np.where((np.arange(height)[:, None] > horizon[None])[..., None], ground, sky)


def _planks(rng: np.random.Generator, width: int, height: int) -> np.ndarray:
    size = int(rng.integers(14, 26))
    canvas = np.tile(_muted(rng), (height, width, 1)) - 12
    row = np.arange(height) // size
    canvas += rng.uniform(-10, 10, row.max() + 1)[row][:, None, None]
    canvas += _smooth(rng, max(2, width // 12), height, 3, stretch=(width, height))[..., None] * 5
    canvas[np.arange(height) % size == 0] -= 22
    return canvas


def _tiles(rng: np.random.Generator, width: int, height: int) -> np.ndarray:
    size = int(rng.integers(18, 32))
    parity = (np.arange(height)[:, None] // size + np.arange(width)[None] // size) % 2
    first = _muted(rng)
    canvas = np.where(parity[..., None] == 0, first, first - rng.uniform(10, 22))
    canvas[np.arange(height) % size == 0] -= 10
    canvas[:, np.arange(width) % size == 0] -= 10
    return canvas


def _blotches(rng: np.random.Generator, width: int, height: int) -> np.ndarray:
    first, second = _muted(rng), _muted(rng)
    share = (0.5 + 0.35 * _smooth(rng, width, height, 4))[..., None]
    return first * share + second * (1 - share)


def _smooth(
    rng: np.random.Generator, width: int, height: int, cells: int, stretch: tuple[int, int] | None = None
) -> np.ndarray:
    """(height, width) smooth noise of about unit variance: `cells` random values a side, blown up."""
    coarse = Image.fromarray(rng.normal(0, 1, (cells, cells)).astype(np.float32))
    return np.asarray(coarse.resize(stretch or (width, height), Image.Resampling.BICUBIC), np.float64)


# ---- objects: each is drawn inside the unit disc and returns its outline ----

_SCALE = 4
"""Sprites are drawn this much larger and reduced, for smooth edges."""


class Pen:
    """Draws in unit coordinates (x right, y down, the disc of radius 1) on an enlarged square canvas."""

    def __init__(self, radius: float) -> None:
        self.radius = radius * _SCALE
        self.half = (math.ceil(radius) + 2) * _SCALE
        self.canvas = Image.new("RGB", (2 * self.half, 2 * self.half))
        self.draw = ImageDraw.Draw(self.canvas)

    def at(self, points: Points) -> Points:
        return [(self.half + self.radius * x, self.half + self.radius * y) for x, y in points]

    def polygon(self, points: Points, fill: Colour) -> None:
        self.draw.polygon(self.at(points), fill=fill)

    def disc(self, x: float, y: float, radius: float, fill: Colour) -> None:
        self.polygon(_circle(radius, x, y), fill)

    def line(self, points: Points, width: float, fill: Colour) -> None:
        self.draw.line(self.at(points), fill=fill, width=max(1, round(width * self.radius)), joint="curve")

    def text(self, text: str, height: float, fill: Colour) -> None:
        font = ImageFont.load_default(height * self.radius)
        self.draw.text((self.half, self.half), text, font=font, fill=fill, anchor="mm")


def _circle(radius: float, x: float = 0.0, y: float = 0.0, start: float = 0.0, stop: float = 360.0) -> Points:
    steps = max(8, round(abs(stop - start) / 12))
    angles = np.radians(np.linspace(start, stop, steps, endpoint=abs(stop - start) < 360))
    return [(x + radius * math.cos(a), y + radius * math.sin(a)) for a in angles]


def _ball(pen: Pen, rng: np.random.Generator) -> tuple[list[Points], str]:
    colour, fill = (("orange", (232, 120, 38)), ("blue", (48, 98, 214)))[int(rng.random() < 0.35)]
    outline = _circle(0.95)
    pen.polygon(outline, fill)
    seam = (40, 28, 22) if colour == "orange" else (245, 245, 250)
    pen.line([(-0.95, 0), (0.95, 0)], 0.08, seam)
    pen.line([(0, -0.95), (0, 0.95)], 0.08, seam)
    pen.line(_circle(0.75, -1.0, 0, -56, 56), 0.08, seam)
    pen.line(_circle(0.75, 1.0, 0, 124, 236), 0.08, seam)
    return [outline], colour


def _stop_sign(pen: Pen, rng: np.random.Generator) -> tuple[list[Points], str]:
    def octagon(radius: float) -> Points:
        return [(radius * math.cos(a), radius * math.sin(a)) for a in (math.pi / 8 * (2 * i + 1) for i in range(8))]

    pen.polygon(octagon(0.98), (240, 240, 240))
    pen.polygon(octagon(0.9), (196, 26, 38))
    pen.text("STOP", 0.62, (250, 250, 250))
    return [octagon(0.98)], "red"


def _banana(pen: Pen, rng: np.random.Generator) -> tuple[list[Points], str]:
    outer = _circle(0.92, 0, -0.12, 5, 175)
    inner = _circle(0.92, 0, -0.62, 147, 33)
    outline = [*outer, (-0.97, -0.3), (-0.86, -0.33), *inner, (0.86, -0.33), (0.97, -0.3)]
    pen.polygon(outline, (246, 208, 46))
    pen.line(_circle(0.86, 0, -0.32, 30, 150), 0.07, (214, 168, 28))
    pen.polygon([(-0.97, -0.3), (-0.86, -0.33), (-0.82, -0.18), (-0.94, -0.12)], (92, 64, 30))
    pen.polygon([(0.97, -0.3), (0.86, -0.33), (0.82, -0.18), (0.94, -0.12)], (92, 64, 30))
    return [outline], "yellow"


def _traffic_light(pen: Pen, rng: np.random.Generator) -> tuple[list[Points], str]:
    half_width, half_height, corner = 0.38, 0.9, 0.12
    outline = [
        (sx * (half_width - corner) + corner * math.cos(a), sy * (half_height - corner) + corner * math.sin(a))
        for sx, sy, start in ((1, 1, 0), (-1, 1, 90), (-1, -1, 180), (1, -1, 270))
        for a in np.radians([start, start + 30, start + 60, start + 90])
    ]
    pen.polygon(outline, (44, 50, 52))
    lit = int(rng.integers(3))
    colours: tuple[tuple[Colour, Colour], ...] = (
        ((255, 70, 60), (96, 30, 28)), ((255, 206, 60), (100, 82, 28)), ((70, 240, 120), (24, 84, 46)),
    )  # fmt: skip
    for i, (bright, dark) in enumerate(colours):
        pen.disc(0, (i - 1) * 0.56, 0.24, bright if i == lit else dark)
    return [outline], ("red", "yellow", "green")[lit]


def _kite(pen: Pen, rng: np.random.Generator) -> tuple[list[Points], str]:
    colour, first, second = (
        ("red", (226, 48, 58), (250, 196, 70)),
        ("blue", (44, 92, 220), (120, 214, 240)),
        ("green", (34, 152, 84), (206, 226, 90)),
        ("purple", (136, 62, 190), (240, 150, 210)),
    )[int(rng.integers(4))]
    top, right, bottom, left, middle = (0, -0.98), (0.62, -0.32), (0, 0.55), (-0.62, -0.32), (0, -0.32)
    pen.polygon([top, right, middle], first)
    pen.polygon([top, left, middle], second)
    pen.polygon([bottom, right, middle], second)
    pen.polygon([bottom, left, middle], first)
    tail = [
        (-0.04, 0.5),
        (0.04, 0.5),
        (0.12, 0.62),
        (0.04, 0.74),
        (0.12, 0.97),
        (0.03, 0.97),
        (-0.06, 0.74),
        (0.0, 0.62),
    ]
    pen.polygon(tail, first)
    bows: list[Points] = []
    for y in (0.66, 0.86):
        for side in (-0.18, 0.18):
            bows.append([(0.04, y), (0.04 + side, y - 0.07), (0.04 + side, y + 0.07)])
            pen.polygon(bows[-1], second)
    return [[top, right, bottom, left], tail, *bows], colour


def _clock(pen: Pen, rng: np.random.Generator) -> tuple[list[Points], str]:
    outline = _circle(0.95)
    pen.polygon(outline, (58, 44, 40))
    pen.disc(0, 0, 0.78, (250, 248, 240))
    for hour in range(12):
        x, y = math.sin(hour * math.pi / 6), -math.cos(hour * math.pi / 6)
        pen.line([(0.62 * x, 0.62 * y), (0.73 * x, 0.73 * y)], 0.07 if hour % 3 == 0 else 0.04, (40, 40, 46))
    for length, width, angle in ((0.4, 0.09, rng.uniform(0, 6.28)), (0.6, 0.06, rng.uniform(0, 6.28))):
        pen.line([(0, 0), (length * math.sin(angle), -length * math.cos(angle))], width, (24, 24, 30))
    pen.disc(0, 0, 0.07, (196, 40, 40))
    return [outline], "white"


_Painter = Callable[[Pen, np.random.Generator], tuple[list[Points], str]]

SHAPES: dict[str, tuple[_Painter, float]] = {
    "sports ball": (_ball, 40.0),
    "stop sign": (_stop_sign, 8.0),
    "banana": (_banana, 180.0),
    "traffic light": (_traffic_light, 8.0),
    "kite": (_kite, 30.0),
    "clock": (_clock, 12.0),
}
"""How each category is painted, and by how many degrees it may be turned either way."""


def draw_sprite(rng: np.random.Generator, kind: str, side: float) -> tuple[Image.Image, Image.Image, list[Points], str]:
    """One object: its picture, its coverage, its outlines relative to the centre in pixels, and its colour's name.

    Args:
        rng: source of colour, turn and light.
        kind: a key of `SHAPES`.
        side: diameter, pixels.
    """
    painter, turn = SHAPES[kind]
    pen = Pen(side / 2)
    outlines, colour = painter(pen, rng)
    angle = rng.uniform(-turn, turn)
    cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    # Image.rotate turns counter-clockwise on screen, where y points down.
    turned = [[((x * cos + y * sin) * side / 2, (y * cos - x * sin) * side / 2) for x, y in o] for o in outlines]
    cover = Image.new("L", pen.canvas.size)
    draw = ImageDraw.Draw(cover)
    for outline in turned:
        draw.polygon([(pen.half + x * _SCALE, pen.half + y * _SCALE) for x, y in outline], fill=255)
    picture = pen.canvas.reduce(2).rotate(angle, Image.Resampling.BILINEAR).reduce(_SCALE // 2)
    # Light falls from the upper left.
    size = picture.width
    ramp = np.linspace(1.1, 0.86, size)
    light = (ramp[:, None] + ramp[None]) / 2 * rng.uniform(0.94, 1.04)
    lit = np.clip(np.asarray(picture, np.float64) * light[..., None], 0, 255).astype(np.uint8)
    return Image.fromarray(lit), cover.reduce(_SCALE), turned, colour
