"""Published encoders: where their files are, and their tensors as the weights of our network. Without TensorFlow."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from zoobot import folders
from zoobot.errors import InputError, SettingsError
from zoobot.models import torch_files
from zoobot.models.architectures import ARCHITECTURES
from zoobot.models.torch_files import Stored

if TYPE_CHECKING:
    import keras

FILES = ("model.safetensors", "pytorch_model.bin")
_SUFFIXES = (".safetensors", ".bin")
# What timm calls the weights of a layer; `weight` is both a kernel and the factor of a normalisation.
_OF_TIMM = {
    "kernel": "weight", "bias": "bias", "gamma": "weight", "beta": "bias", "moving_mean": "running_mean",
    "moving_variance": "running_var", "scale": "gamma",
}  # fmt: skip
_AXES = {"Conv2D": (3, 2, 0, 1), "DepthwiseConv2D": (2, 3, 0, 1), "Dense": (1, 0)}  # of a kernel, in torch's order
_HEADS = ("head.fc.", "classifier.", "fc.")  # the last layer of a classifier, behind the features
_UNUSED = ".num_batches_tracked"  # counts training steps of a batch normalisation
_SHOWN = 4  # names in a message


def find(path: Path) -> Path | None:
    """The file of weights of torch at ``path``: the file itself, or that in a folder; safetensors if both exist."""
    if path.suffix in _SUFFIXES and path.is_file():
        return path
    return next((path / name for name in FILES if (path / name).is_file()), None)


def missing(path: Path) -> SettingsError:
    """The error for a published encoder that is not in its folder."""
    return SettingsError(
        f"model.weights=zoobot:{path.name}: {path} has neither {' nor '.join(FILES)}. Nothing is downloaded by itself."
        f" Get config.json and one of the two from https://huggingface.co/mwalmsley/{path.name} into that folder:"
        f" hf download mwalmsley/{path.name} --local-dir {path}"
    )


def refuse_another(architecture: str, path: Path) -> None:
    """SettingsError: the architecture takes no published weights, or config.json beside them names another.

    Some networks of timm differ only in their padding, so names and shapes alone would not tell them apart.
    """
    of_timm = {one.timm: name for name, one in ARCHITECTURES.items() if one.timm}
    known = ", ".join(of_timm.values())
    timm, config = ARCHITECTURES[architecture].timm, path.with_name("config.json")
    if not timm:
        raise SettingsError(
            f"model.architecture={architecture}: cannot take the weights in {path}; choose one of {known}."
        )
    if not config.is_file():
        return
    content = folders.read_json(config)
    there = str(content.get("architecture", "")).partition(".")[0] if isinstance(content, dict) else ""
    if there != timm:
        hint = f"set model.architecture={of_timm[there]}" if there in of_timm else f"only {known} can be read"
        raise SettingsError(f"model.architecture={architecture}: {config} says {there or 'nothing'}; {hint}.")


class Weight(NamedTuple):
    """One weight of a network: where its values go, and the order that torch has its axes in."""

    variable: keras.Variable
    axes: tuple[int, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape in torch."""
        return tuple(self.variable.shape[axis] for axis in self.axes)

    def fits(self, stored: Stored) -> bool:
        """Whether a tensor can be its values. timm writes some dense layers as convolutions of 1 × 1."""
        more = (1, 1) if len(self.axes) == 2 else ()
        return stored.dtype in torch_files.FLOATS and stored.shape in (self.shape, self.shape + more)

    def fill(self, values: npt.NDArray[np.float32]) -> None:
        """Set it to the values of torch's tensor."""
        self.variable.assign(values.reshape(self.shape).transpose(np.argsort(self.axes)))


def load(network: keras.Model, path: Path) -> None:
    """Fill every weight of the convolutions from a file; on an error nothing is changed.

    Raises SettingsError if the file belongs to another network, and InputError if it is damaged.
    """
    found = []
    for name, (weight, stored) in match(network, path).items():
        values = stored.read()
        if not np.isfinite(values).all():
            raise InputError(f"{path} cannot be used: {name} has values that are not finite. Download the file again.")
        found.append((weight, values))
    for weight, values in found:
        weight.fill(values)


def match(network: keras.Model, path: Path) -> dict[str, tuple[Weight, Stored]]:
    """Each weight of the convolutions with its tensor, by timm's names; no values are read.

    Raises SettingsError, with all names, if one has no partner, another shape or is of whole numbers.
    """
    wanted = weights(network)
    stored = {
        name: tensor
        for name, tensor in torch_files.read(path).items()
        if not name.startswith(_HEADS) and not name.endswith(_UNUSED)
    }
    problems = []
    if absent := wanted.keys() - stored.keys():
        problems.append(f"the file has no {_listed(absent)}")
    if more := stored.keys() - wanted.keys():
        problems.append(f"the network has no {_listed(more)}")
    problems += [
        f"{name} is {stored[name].dtype} {stored[name].shape}, and must be float {weight.shape}"
        for name, weight in wanted.items()
        if name in stored and not weight.fits(stored[name])
    ][:_SHOWN]
    if problems:
        raise SettingsError(
            "\n  ".join([f"model.weights: {path} does not fit the network in model.architecture:", *problems])
            + "\nSet model.architecture to the network that the file was made for, or give another file."
        )
    return {name: (weight, stored[name]) for name, weight in wanted.items()}


def weights(network: keras.Model) -> dict[str, Weight]:
    """The weights of a network by the names that timm gives them."""
    return {
        f"{layer.name}.{_OF_TIMM.get(variable.name, variable.name)}": Weight(
            variable, _AXES[type(layer).__name__] if variable.name == "kernel" else (0,)
        )
        for layer in network.layers
        for variable in layer.weights
    }


def _listed(names: set[str]) -> str:
    shown = ", ".join(sorted(names)[:_SHOWN])
    return f"{shown} and {len(names) - _SHOWN} more" if len(names) > _SHOWN else shown
