"""Saving and loading of a pipeline, and what it is called."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from diffusers import DiffusionPipeline
from diffusers.utils import is_accelerate_available

from satcascade.errors import SatcascadeError, UsageError, one_line
from satcascade.io.files import atomic_folder
from satcascade.io.hashing import sha256_of_files, weights_hash
from satcascade.io.json import read_json, write_json
from satcascade.pipelines.folder import check_fit, check_weights, model_folder, weight_files

if TYPE_CHECKING:
    from typing_extensions import Self


class StoredPipeline(DiffusionPipeline):
    """A pipeline whose folder is checked when it is loaded, and appears whole when it is saved."""

    # Its networks, by the names that diffusers gives components.
    _network_names: tuple[str, ...]
    _folder: Path | None = None
    _label: str | None = None

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **kwargs: Any) -> Self:
        """Load a pipeline from a folder, from the hub, or from the package.

        Args:
            pretrained_model_name_or_path: a folder written by :meth:`save_pretrained`, ``owner/name`` on
                the hub, or a name that :mod:`satcascade.zoo` knows.
            kwargs: those of ``DiffusionPipeline.from_pretrained``. Only safetensors files are read, and
                their weights become float32 unless ``dtype`` (or ``torch_dtype``) says otherwise.

        Raises:
            SatcascadeError: the folder is missing or is no pipeline, a file of it is damaged, or the hub
                cannot be reached and has not been visited before.
        """
        where = str(pretrained_model_name_or_path)
        hub = {
            key: kwargs.pop(key)
            for key in ("revision", "cache_dir", "token", "local_files_only", "force_download")
            if key in kwargs
        }
        source = model_folder(where, **hub)
        folder = source.path
        check_weights(folder)
        kwargs.setdefault("low_cpu_mem_usage", is_accelerate_available())
        try:
            pipeline = super().from_pretrained(str(folder), use_safetensors=True, **kwargs)
        except SatcascadeError:
            raise
        except Exception as error:  # diffusers raises many kinds for files that do not fit together
            raise SatcascadeError(f"model {where} cannot be loaded: {one_line(error)}") from error
        for part in cls._network_names:
            # A network may also be handed in by the caller, or be left out.
            if part not in kwargs and getattr(pipeline, part) is not None:
                check_fit(folder / part, getattr(pipeline, part))
        pipeline._folder, pipeline._label = folder, source.label
        pipeline.register_to_config(_name_or_path=where)
        for network in pipeline._networks():
            network.to(memory_format=torch.channels_last)
        return pipeline

    @classmethod
    def from_pipe(cls, pipeline: DiffusionPipeline, **kwargs: Any) -> Self:
        """Another pipeline with the very networks and settings of one.

        Args:
            pipeline: the pipeline; it stays as it is.
            kwargs: components and settings to exchange, by their names in the constructor.

        Raises:
            UsageError: the pipeline is of another kind.
        """
        if not isinstance(pipeline, StoredPipeline):
            raise UsageError(f"{type(pipeline).__name__} has not the networks of {cls.__name__}: load one")
        # diffusers' own hands on no network whose class the constructor does not name.
        settings = {name: value for name, value in pipeline.config.items() if not name.startswith("_")}
        return cls(**{**settings, **pipeline.components, **kwargs})

    def save_pretrained(self, save_directory: str | Path, **kwargs: Any) -> None:
        """Save as a folder that appears whole: it is written aside and then renamed.

        Args:
            save_directory: the folder; missing or empty. An existing pipeline is overwritten in place.
            kwargs: those of ``DiffusionPipeline.save_pretrained``.

        Raises:
            SatcascadeError: the disk is full; nothing is left behind.
        """
        target = Path(save_directory)
        if target.is_dir() and any(target.iterdir()):
            super().save_pretrained(str(target), **kwargs)
            _forget_where_from(target)
            return
        # The hub's name for a pushed folder is that of the target.
        if kwargs.get("push_to_hub"):
            kwargs.setdefault("repo_id", target.name)
        with atomic_folder(target) as aside:
            super().save_pretrained(str(aside), **kwargs)
            _forget_where_from(aside)

    @property
    def folder(self) -> Path | None:
        """The folder the pipeline was loaded from; None where it was built in memory."""
        where = self.config.get("_name_or_path")
        if self._folder is None and where is not None and Path(where).is_dir():
            return Path(where)
        return self._folder

    @property
    def name(self) -> str:
        """What the model is called in records: ``compact``, a hub name, or the name of its folder."""
        if self._label is not None:
            return self._label
        return "unsaved" if self.folder is None else self.folder.resolve().name

    @cached_property
    def weights_hash(self) -> str:
        """SHA-256 over the weights, 64 hexadecimal digits.

        Of a loaded pipeline: over path and content of its safetensors files, in the order of their paths.
        Of one built in memory: over names and values of all parameters.
        """
        if self.folder is None:
            return weights_hash(network.state_dict() for network in self._networks())
        return sha256_of_files(self.folder, weight_files(self.folder))

    def _networks(self) -> list[Any]:
        networks = (getattr(self, name) for name in self._network_names)
        return [network for network in networks if network is not None]


def _forget_where_from(folder: Path) -> None:
    """Take out of a model's descriptions where it was loaded from: a path of somebody's disk."""
    for path in (folder / "model_index.json", *folder.glob("*/config.json")):
        config = read_json(path, "save it again")
        if config.pop("_name_or_path", None) is not None:
            write_json(path, config, indent=2, sort_keys=True)
