"""What a scene is made of, and how: its captions, its size, its seed, and the text of its picture.

The folder of :mod:`satcascade.generation.scenes` and the page know a scene by this alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from PIL import Image

from satcascade.config.stage_settings import StageName, StageSettings, check_stages
from satcascade.data.captions import slug
from satcascade.data.rgb_file import read_rgb
from satcascade.errors import UsageError
from satcascade.formats.scene_folder import FORMAT
from satcascade.generation.provenance import NOTICE, picture_text, sampling_settings
from satcascade.io.hashing import sha256_of_file
from satcascade.models.text import check_captions
from satcascade.pipelines.cascade import CascadePipeline
from satcascade.pipelines.scenes import OnPicture, OnState, OnWindows
from satcascade.sampling.regions import Regions
from satcascade.sampling.scene import SceneSettings, SceneState
from satcascade.seeds import derived_seed

EXTENDED = "extended by a model: what lies outside the source image is synthetic and shows no real place"


@dataclass(frozen=True)
class Extension:
    """A picture that is to grow.

    Attributes:
        image: its file.
        left, top, right, bottom: pixels it grows by on each side.
        resampling, seamless: as :meth:`satcascade.pipelines.scenes.ScenePipeline.extend` takes them.

    Raises:
        UsageError: the resampling is less than 1.
    """

    image: Path
    left: int = 0
    top: int = 0
    right: int = 0
    bottom: int = 0
    resampling: int = 1
    seamless: bool = True

    def __post_init__(self) -> None:
        if self.resampling < 1:
            raise UsageError(f"resampling {self.resampling} is not possible: give 1 or more")

    @property
    def sides(self) -> dict[str, int]:
        """The pixels by the names of the sides."""
        return {"left": self.left, "top": self.top, "right": self.right, "bottom": self.bottom}

    @property
    def joining(self) -> dict[str, Any]:
        """How what is made is fitted to the picture: arguments of the pipeline's call, and of the records."""
        return {"resampling": self.resampling, "seamless": self.seamless}


@dataclass(frozen=True)
class SceneSpec:
    """What scene to make.

    Attributes:
        prompt: a caption, or captions of parts of the picture.
        size: height and width in pixels; None takes those of the captions' map, or of the extension.
        extension: the picture that grows; None makes a new one.
        seed: of the run, 0 to 2^63 - 1.
        scene: overlap, wrapping, windows at once; its seed is not used.
        stages: steps, guidance and scheduler of the stages, by their names; what is left out is the model's.

    Raises:
        UsageError: a caption is empty, there is no size, or a number is out of its range.
    """

    prompt: str | Regions
    size: tuple[int, int] | None = None
    extension: Extension | None = None
    seed: int = 0
    scene: SceneSettings = field(default_factory=SceneSettings)
    stages: Mapping[StageName, StageSettings] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_captions(self.captions)
        check_stages(self.stages)
        if isinstance(self.prompt, str) and self.size is None and self.extension is None:
            raise UsageError("a scene of one caption needs a size: give height and width in pixels")
        if self.extension and (
            min(self.extension.sides.values()) < 0 or not any(self.extension.sides.values())
        ):
            raise UsageError("nothing to extend: say by how many pixels on the left, right, top or bottom")
        if not 0 <= self.seed < 2**63:
            raise UsageError(f"seed {self.seed} is out of range: give an integer from 0 to 2^63 - 1")

    @property
    def captions(self) -> tuple[str, ...]:
        """The captions."""
        return (self.prompt,) if isinstance(self.prompt, str) else self.prompt.captions


class SceneJob:
    """A scene of a pipeline: its description, the text of its picture, and how it is sampled.

    Args:
        pipeline: what to sample with, on its device and in its precision.
        spec: what to make.

    Attributes:
        caption: all captions in a line.
        seed: of the picture.
        file: its file name.
    """

    def __init__(self, pipeline: CascadePipeline, spec: SceneSpec):
        self.pipeline, self.spec = pipeline, spec
        self.caption = "; ".join(" ".join(caption.split()) for caption in spec.captions)
        self.seed = derived_seed(spec.seed, "image", 0)
        self.file = f"{slug(self.caption)}.png"

    @cached_property
    def settings(self) -> dict[str, Any]:
        """What the picture depends on, beside captions and seed."""
        spec, scene = self.spec, self.spec.scene
        settings = sampling_settings(self.pipeline, spec.stages, None, "float32")
        settings |= {"overlap": scene.overlap, "wrap": scene.wrap}
        if spec.size is not None:
            settings["size"] = f"{spec.size[1]}x{spec.size[0]}"
        if isinstance(spec.prompt, Regions):
            settings["map"] = spec.prompt.fingerprint
        if spec.extension is not None:
            source = spec.extension.image
            settings |= {"extended": spec.extension.sides, "source_sha256": sha256_of_file(source)}
            settings |= spec.extension.joining
        return settings

    def description(self) -> dict[str, Any]:
        """The content of ``scene.json``."""
        return {
            "format": FORMAT,
            "captions": list(self.spec.captions),
            "seed": self.spec.seed,
            "model_hash": self.pipeline.weights_hash,
            "settings": self.settings,
        }

    def text(self) -> dict[str, str]:
        """The text fields of the picture."""
        extension, source = self.spec.extension, None
        if extension is not None:
            source = f"{extension.image.name} sha256:{self.settings['source_sha256']}"
        return picture_text(
            self.pipeline,
            self.caption,
            self.seed,
            NOTICE if extension is None else EXTENDED,
            run_seed=self.spec.seed,
            settings=self.settings,
            about={"index": 0, "captions": list(self.spec.captions)},
            source=source,
        )

    def sample(
        self,
        state: SceneState | None = None,
        *,
        on_state: OnState | None = None,
        on_windows: OnWindows | None = None,
        on_picture: OnPicture | None = None,
    ) -> Image.Image:
        """Make the picture, from a state on.

        The arguments, and what is raised, are those of
        :meth:`satcascade.pipelines.scenes.ScenePipeline.scene`.
        """
        spec, scene = self.spec, self.spec.scene
        options: dict[str, Any] = {
            "seed": self.seed,
            "overlap": scene.overlap,
            "batch_size": scene.batch_size,
            "settings": spec.stages,
            "state": state,
            "on_state": on_state,
            "on_windows": on_windows,
            "on_picture": on_picture,
        }
        if spec.extension is None:
            return self.pipeline.scene(spec.prompt, spec.size, wrap=scene.wrap, **options)
        image = Image.fromarray(read_rgb(spec.extension.image))
        grown = spec.extension.sides | spec.extension.joining
        return self.pipeline.extend(image, self.caption, **(options | grown))
