"""What all diagrams are drawn with: boxes, circles and arrows on a sheet whose unit is an inch, in
colours that differ in grey too."""

import contextlib
import io
from collections.abc import Iterator, Sequence

import matplotlib.style
import numpy as np
import seaborn as sns
from IPython.display import Image
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle, Polygon, Rectangle
from matplotlib.patheffects import withStroke
from PIL import Image as Picture

BLUE, ORANGE, GREEN, RED, PURPLE = sns.color_palette("colorblind").as_hex()[:5]
INK, PALE = "0.15", "0.93"
GATES = {"f": "forget", "i": "input", "a": "candidate", "o": "output"}
QUANTIZED = {"facecolor": "#dbeaf5", "edgecolor": BLUE, "hatch": "////", "linewidth": 1.2}
"""How a matrix of quantized weights looks: hatched."""
NORMALIZED = {"facecolor": "#fdeccf", "edgecolor": RED, "linewidth": 3}
"""How a normalized product looks: with a thick border."""
BACK = {"color": RED, "linestyle": (0, (4, 2)), "linewidth": 1.8}
"""How a gradient's arrow looks: broken."""
DPI, WIDTH, COLORS = 200, 720, 64
STYLE = ["default", {"font.size": 11, "hatch.linewidth": 0.7, "text.color": INK,
                     "axes.labelcolor": INK, "axes.edgecolor": "0.4"}]


@contextlib.contextmanager
def sheet(width: float, height: float) -> Iterator[Axes]:
    """An empty sheet, in a style that does not depend on the lesson's.

    Args:
        width: its width in inches.
        height: its height.
    """
    with matplotlib.style.context(STYLE):
        axes = Figure(figsize=(width, height)).add_axes((0, 0, 1, 1))
        axes.set(xlim=(0, width), ylim=(0, height))
        axes.axis("off")
        yield axes


def box(axes: Axes, x: float, y: float, width: float, height: float, text: str = "", **style):
    """A rectangle around a text.

    Args:
        axes: the sheet.
        x: its centre.
        y: likewise.
        width: its width.
        height: its height.
        text: what stands in it.
        style: of the rectangle.
    """
    style = {"facecolor": "white", "edgecolor": "0.3", "zorder": 3} | style
    axes.add_patch(Rectangle((x - width / 2, y - height / 2), width, height, **style))
    ground = {"facecolor": "white", "edgecolor": "none", "pad": 1.2} if "hatch" in style else None
    label(axes, x, y, text, bbox=ground)


def circle(axes: Axes, x: float, y: float, text: str, radius: float = 0.14, **style):
    """A circle around a text.

    Args:
        axes: the sheet.
        x: its centre.
        y: likewise.
        text: what stands in it.
        radius: its radius.
        style: of the circle.
    """
    style = {"facecolor": "white", "edgecolor": "0.3", "zorder": 3} | style
    axes.add_patch(Circle((x, y), radius, **style))
    label(axes, x, y, text)


def label(axes: Axes, x: float, y: float, text: str, **style):
    """A text by itself.

    Args:
        axes: the sheet.
        x: its centre, unless the style says otherwise.
        y: likewise.
        text: the text.
        style: of the text.
    """
    axes.text(x, y, text, **{"ha": "center", "va": "center", "zorder": 4} | style)


def arrow(axes: Axes, *points: tuple[float, float], head: bool = True, over: bool = False,
          **style):
    """An arrow.

    Args:
        axes: the sheet.
        points: its corners, the first and the last too.
        head: whether the last one has a head.
        over: whether it crosses other lines, which are interrupted there.
        style: of the line.
    """
    style = {"color": "0.3", "linewidth": 1.2, "zorder": 2} | style
    halo = [withStroke(linewidth=style["linewidth"] + 3, foreground="white")] if over else None
    points = np.array(points, float)
    if head:
        along = points[-1] - points[-2]
        along *= (0.08 + 0.02 * style["linewidth"]) / np.linalg.norm(along)
        aside = 0.45 * along[::-1] * (-1, 1)
        neck = points[-1] - along
        axes.add_patch(Polygon([points[-1], neck + aside, neck - aside], linewidth=0,
                               facecolor=style["color"], zorder=style["zorder"]))
        points[-1] = neck
    axes.plot(*points.T, path_effects=halo, solid_capstyle="butt", dash_capstyle="butt", **style)


def finished(axes: Axes, alt: str) -> Image:
    """The sheet as an image.

    Args:
        axes: the sheet.
        alt: what a reader who does not see it needs to know.
    """
    return described([raster(axes.figure)], alt)


def raster(figure: Figure) -> Picture.Image:
    """A figure as points, sharp enough for print."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI)
    return Picture.open(buffer).convert("RGB")


def described(frames: Sequence[Picture.Image], alt: str, duration: int = 0) -> Image:
    """Pictures as a PNG that a notebook shows, of few colours, so that it is small.

    Args:
        frames: the picture, and what is played once in its place where that can be shown.
        alt: what a reader who does not see it needs to know.
        duration: for how long each of these is shown, in milliseconds.
    """
    palette = frames[0].quantize(COLORS)
    palette.putpalette([255 if value > 245 else value for value in palette.getpalette()])
    first, *rest = [frame.quantize(palette=palette, dither=Picture.Dither.NONE)
                    for frame in frames]
    moving = {"save_all": True, "append_images": rest, "default_image": True,
              "duration": duration, "loop": 1} if rest else {}
    buffer = io.BytesIO()
    first.save(buffer, "PNG", optimize=True, dpi=(DPI, DPI), **moving)
    return Image(buffer.getvalue(), width=WIDTH, metadata={"alt": alt})
