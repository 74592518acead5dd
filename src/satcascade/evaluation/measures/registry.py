"""All that can be measured: the only place where a measure is declared.

What measures, prints, draws, tabulates or chooses reads this table. A new measure is one file beside this
one, with a function ``(Comparison, FeatureNetwork) -> Measured``, and one entry of ``_MEASURES``.

Nothing heavy is imported here: the command line names the measures in its help.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from satcascade.evaluation.comparison import Comparison
    from satcascade.evaluation.measures.measured import Measured
    from satcascade.evaluation.networks.feature_network import FeatureNetwork

Needs = Literal["scene classes", "training images", "CLIP"]

# The fewest images that a Frechet distance can be had of: of halves of them a covariance is taken.
FRECHET_IMAGES = 4
KERNEL_IMAGES = 2
# How many neighbours a ball among features reaches to.
NEIGHBOURS = 5


@dataclass(frozen=True)
class Column:
    """One number of a measure that tables and figures show.

    Attributes:
        key: in ``metrics.json`` and in the table of a sweep; ``/NETWORK`` follows where a measure has a value
            for each feature network.
        title: on the page.
        decimals: on the page.
        better: which way is better; empty where neither is.
        hint: what it is, in a few words.
        figure: whether reports side by side have a figure of it.
        elsewhere: its name in RSDiff's tables, empty where it has none.
    """

    key: str
    title: str
    decimals: int = 3
    better: Literal["lower", "higher", ""] = "higher"
    hint: str = ""
    figure: bool = False
    elsewhere: str = ""


@dataclass(frozen=True)
class Measure:
    """One measure.

    Attributes:
        name: as ``--metrics`` takes it.
        about: what it measures, in a few words.
        function: ``module:function`` in this package, which computes it.
        columns: its numbers in tables; it may have others, which ``metrics.json`` has alone.
        per_network: whether it has a value for each feature network; otherwise the first network serves it.
        needs: what it needs besides generated and real images.
        fewest: images on each side.
        usual: whether ``evaluate`` measures it when nothing else is said.
        swept: the same of ``sweep``.
    """

    name: str
    about: str
    function: str
    columns: tuple[Column, ...]
    per_network: bool = False
    needs: tuple[Needs, ...] = ()
    fewest: int = 1
    usual: bool = True
    swept: bool = False

    @property
    def compute(self) -> Callable[[Comparison, FeatureNetwork], Measured]:
        """The function that computes it, of a comparison and a feature network."""
        module, _, name = self.function.partition(":")
        function: Callable[[Comparison, FeatureNetwork], Measured] = getattr(
            import_module(f"satcascade.evaluation.measures.{module}"), name
        )
        return function


# In the order of tables, figures and ``metrics.json``.
_MEASURES = (
    Measure(
        name="frechet",
        about="distance of two Gaussians fitted to features",
        function="distances:measure_frechet",
        columns=(Column("frechet_distance", "Frechet distance", 2, "lower", figure=True, elsewhere="fid"),),
        per_network=True,
        fewest=FRECHET_IMAGES,
        swept=True,
    ),
    Measure(
        name="kernel",
        about="kernel distance (KID) of features",
        function="distances:measure_kernel",
        columns=(Column("kernel_distance", "Kernel distance", 4, "lower", elsewhere="kid"),),
        per_network=True,
        fewest=KERNEL_IMAGES,
        swept=True,
    ),
    Measure(
        name="manifold",
        about="quality and variety apart, by nearest neighbours",
        function="manifold:measure_manifold",
        columns=(
            Column("precision", "Precision", figure=True),
            Column("recall", "Recall", figure=True),
            Column("density", "Density"),
            Column("coverage", "Coverage"),
        ),
        per_network=True,
        fewest=NEIGHBOURS + 1,
        swept=True,
    ),
    Measure(
        name="scene",
        about="whether images show the scene class of their caption",
        function="scene:measure_scene",
        columns=(
            Column(
                "scene_accuracy",
                "Scene accuracy",
                hint="a probe trained on real images names the caption's scene",
                figure=True,
            ),
            Column(
                "zero_shot_accuracy",
                "Zero-shot accuracy",
                hint="trained on generated images, tested on real ones",
            ),
        ),
        needs=("scene classes", "training images"),
        swept=True,
    ),
    Measure(
        name="usefulness",
        about="whether generated images help a classifier with few real ones",
        function="usefulness:measure_usefulness",
        columns=(),
        needs=("scene classes", "training images"),
    ),
    Measure(
        name="clip",
        about="how well images fit their captions",
        function="clip:measure_clip",
        columns=(
            Column("clip_score", "CLIP-score", hint="cosine of image and caption"),
            Column(
                "clip_score_shuffled",
                "CLIP-score, shuffled",
                better="",
                hint="the same with captions shuffled: the floor",
            ),
            Column("clip_lift", "CLIP lift", hint="CLIP-score less the shuffled one", figure=True),
        ),
        needs=("CLIP",),
        # Its weights have to be fetched.
        usual=False,
    ),
    Measure(
        name="memorisation",
        about="which images copy a training image",
        function="memorisation:measure_memorisation",
        columns=(
            Column(
                "near_copy_rate",
                "Near copies",
                4,
                "lower",
                "share of images close to a training image",
            ),
        ),
        needs=("training images",),
    ),
)

MEASURES: dict[str, Measure] = {measure.name: measure for measure in _MEASURES}
# All columns by key, with the measure that each is one of.
COLUMNS: dict[str, tuple[Measure, Column]] = {
    column.key: (measure, column) for measure in _MEASURES for column in measure.columns
}


def column_of(key: str) -> Column | None:
    """The column of a key such as ``recall/NETWORK``; None where there is none."""
    known = COLUMNS.get(key.partition("/")[0])
    return known[1] if known else None


def needing(names: Iterable[str], what: Needs) -> list[str]:
    """Which of the measures need something."""
    return [name for name in names if what in MEASURES[name].needs]
