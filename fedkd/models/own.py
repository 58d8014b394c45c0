"""Networks of the user's own file: any class of torch.nn.Module, or any function that makes one."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from pydantic import model_validator
from pydantic.dataclasses import dataclass as checked_dataclass
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter

from fedkd.base.catalogue import STRICT, made
from fedkd.base.errors import UserError, blamed, nearest
from fedkd.base.files import located
from fedkd.base.spec import Spec
from fedkd.models.architecture import Architecture, Kind, Model, Shape
from fedkd.models.blocks.inspection import Seen, inspected, probe
from fedkd.models.blocks.norm import BatchModel
from fedkd.models.blocks.signature import ALWAYS, CLASSES, REQUIRED, check_given, parameters, passed
from fedkd.models.blocks.tensors import check_fit, client_file, read_weights, unprefixed


@checked_dataclass(frozen=True, config=STRICT)
class Dressing:
    """Any class of torch.nn.Module in your own file, or function that returns one, with its own parameters and these.

    The number of classes and the shape of the inputs are given to parameters of the usual names, such as num_classes,
    in_channels or image_size; where these could mean something else (out_features, channels, input_size), only if
    they have no default. The network returns logits, (n, classes), which are the output of a linear layer.
    """

    mean: float | tuple[float, ...] = 0.0
    """taken from the pixels, which are in [0, 1]: a number, or one a channel"""
    std: float | tuple[float, ...] = 1.0
    """by which they are then divided: a number, or one a channel"""
    weights: str = ""
    """file of its state dict, to start from; {client} stands for the client's id; empty: as it draws them"""
    head: str = ""
    """name of its last linear layer; empty: the last one that runs"""

    @model_validator(mode="after")
    def _divides(self) -> Dressing:
        if any(value <= 0 for value in (self.std if isinstance(self.std, tuple) else (self.std,))):
            raise ValueError(f"std={self.std}: pixels are divided by it; it is above 0")
        return self


USAGE = "FILE.py:NAME"
"""How a network of one's own is written in a recipe."""
OURS = tuple(Dressing.__dataclass_fields__)


class OwnModel(BatchModel):
    """The user's network in two parts; its own names are those below `body`, and its last layer is `head`."""

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, origin: str, dressing: Dressing, shape: Shape) -> None:
        head = network.get_submodule(origin)
        assert isinstance(head, nn.Linear)
        super().__init__(network, head.in_features, head.out_features)
        self.head = head
        self.origin = origin
        """name of the head in the network"""
        parent, _, leaf = origin.rpartition(".")
        setattr(network.get_submodule(parent), leaf, nn.Identity())
        state = network.state_dict()
        self.tables = tuple(name for name, _ in network.named_buffers() if name not in state)
        """buffers that no state dict of the network holds"""
        for module in network.modules():
            for name, buffer in module.named_buffers(recurse=False):
                # Tables that are no part of the state would stay behind where a model is restored on another device.
                module.register_buffer(name, buffer)
        for name in ("mean", "std"):
            values = torch.tensor(getattr(dressing, name), dtype=torch.float32)
            self.register_buffer(name, values.reshape(-1, *(1,) * (len(shape) - 1)))

    def own_names(self) -> dict[str, str]:
        """The names of the network's own state dict → the names of the same tensors here."""
        head_names = {f"{self.origin}.{name}": f"head.{name}" for name in self.head.state_dict()}
        return {name: f"body.{name}" for name in self.body.state_dict() if name not in self.tables} | head_names

    def centred(self, x: Tensor) -> Tensor:
        """Pixels minus `mean` over `std`; tokens as they are."""
        # Contiguous, because the user's network may call `view`.
        return ((x - self.mean) / self.std).contiguous() if x.is_floating_point() else x


@dataclass(frozen=True)
class OwnNetwork(Architecture):
    """A network of the user's own file, split into features and head."""

    spec: Spec
    make: Callable[..., Any]
    """the class or function"""
    given: Mapping[str, Any]
    """its own parameters, as the user gave them"""
    dressing: Dressing
    _seen: dict[tuple[Shape, int], Seen] = field(default_factory=dict)
    _drawn_once: dict[tuple[Shape, int], OwnModel] = field(default_factory=dict)

    @property
    def takes(self) -> Kind:
        return "any"

    @property
    def brings_weights(self) -> bool:
        return bool(self.dressing.weights)

    def files(self, client: int) -> tuple[Path, ...]:
        """The client's file of weights."""
        return (client_file(self.dressing.weights, client),) if self.dressing.weights else ()

    def build(self, shape: Shape, classes: int) -> Model:
        if torch.get_default_device().type != "meta":
            return self._drawn(shape, classes)
        # The weights are to be replaced, but nothing could fill the user's own tables on the meta device.
        if (shape, classes) not in self._drawn_once:
            self._drawn_once[shape, classes] = self._drawn(shape, classes)
        return copy.deepcopy(self._drawn_once[shape, classes])

    def _drawn(self, shape: Shape, classes: int) -> OwnModel:
        """A network with the weights that it draws, on the CPU."""
        self._check_normalisation(shape)
        with torch.device("cpu"):
            try:
                network = self._made(shape, classes)
                return OwnModel(network, self._inspected(network, shape, classes).head, self.dressing, shape)
            except UserError as error:
                raise UserError(f"{self._called}: {error}") from error

    def initial(self, model: Model, client: int) -> Mapping[str, Tensor] | None:
        """All tensors of the client's file of weights."""
        if not self.dressing.weights:
            return None
        path = client_file(self.dressing.weights, client)
        return self.adopted(read_weights(path), model, f"{self._called}: {path}")

    def adopted(self, tensors: Mapping[str, Tensor], model: Model, whose: str) -> Mapping[str, Tensor]:
        """By the names of the network's own state dict, or by those of a model that fedkd has saved."""
        assert isinstance(model, OwnModel)
        if tensors.keys() == model.state_dict().keys():
            return super().adopted(tensors, model, whose)
        names, state = model.own_names(), model.state_dict()
        stored = unprefixed(tensors, names)
        # Older files lack the counter of batches, on which nothing depends.
        wanted = {name: state[here] for name, here in names.items() if name in stored or not name.endswith(COUNTER)}
        check_fit(stored, wanted, whose)
        return {names[name]: tensor for name, tensor in stored.items()}

    def _made(self, shape: Shape, classes: int) -> nn.Module:
        settings = passed(self.make, self.given, shape, classes)
        try:
            network = self.make(**settings)
        except Exception as error:
            raise UserError(f"it cannot be made{_with(settings)}: {blamed(error, self._file)}") from error
        if not isinstance(network, nn.Module):
            raise UserError(f"{self.spec.name} gives a {type(network).__name__}; it should give a torch.nn.Module")
        holders: dict[int, str] = {}
        for name, parameter in network.named_parameters(remove_duplicate=False):
            if (other := holders.setdefault(id(parameter), name)) != name:
                raise UserError(f"{other} and {name} are one tensor; a saved state has both: make them two layers")
        return network

    def _inspected(self, network: nn.Module, shape: Shape, classes: int) -> Seen:
        """Where the head is, after a forward pass; lazy layers have their weights from then on."""
        lazy = any(isinstance(each, UninitializedParameter) for each in network.parameters())
        if not lazy and (shape, classes) in self._seen:
            return self._seen[shape, classes]
        settings, x = passed(self.make, self.given, shape, classes), probe(shape, classes)
        try:
            seen = inspected(network, x, self.dressing.head)
        except UserError:
            raise
        except Exception as error:
            samples = f"images of {'×'.join(map(str, shape))}" if len(shape) == 3 else f"chunks of {shape[0]} tokens"
            raise UserError(f"made{_with(settings)}, it fails on {samples}: {blamed(error, self._file)}") from error
        if seen.gives != classes:
            what = "classes" if len(shape) == 3 else "tokens"
            raise UserError(
                f"it gives {seen.gives} outputs, but the data set has {classes} {what}; "
                f"{self._advice(seen.gives, classes)}"
            )
        self._seen[shape, classes] = seen
        return seen

    def _advice(self, gives: int, classes: int) -> str:
        """Advice on how to give the network the right number of outputs."""
        if named := [key for key in parameters(self.make) if ALWAYS.get(key, REQUIRED.get(key)) == CLASSES]:
            return f"{named[0]} should be the width of its last layer: {named[0]}={classes}"
        if alike := [key for key, each in parameters(self.make).items() if each.default == gives]:
            return f"if {alike[0]} is their number, write {self.spec.name}({alike[0]}={classes})"
        return f"give {self.spec.name} a parameter num_classes, which is set to {classes}, and use it in its last layer"

    def _check_normalisation(self, shape: Shape) -> None:
        for name in ("mean", "std"):
            value = getattr(self.dressing, name)
            if len(shape) == 1 and value != getattr(Dressing(), name):
                raise UserError(f"{self._called}: {name}={value} is of images, but the data set is text; leave it out")
            if isinstance(value, tuple) and len(value) != shape[0]:
                raise UserError(
                    f"{self._called}: {name}={list(value)} has {len(value)} numbers, but images have {shape[0]} "
                    f"channels; give as many, or one number for all"
                )

    @property
    def _file(self) -> Path:
        assert self.spec.file
        return located(self.spec.file).resolve()

    @property
    def _called(self) -> str:
        return f"model {self.spec.file}:{self.spec.name}"


COUNTER = "num_batches_tracked"


def own_network(spec: Spec, module: ModuleType) -> OwnNetwork:
    """The class or function that a spec string names in the user's file, its parameters separated from fedkd's.

    Raises:
        UserError: there is none, it makes no networks, or one of its parameters has the name of ours.
    """
    called = f"model {spec.file}:{spec.name}"
    make = getattr(module, spec.name, None)
    if make is None:
        there = [name for name, value in vars(module).items() if _makes(value) and value.__module__ == module.__name__]
        hint = nearest(spec.name, there) if there else "it defines neither a network nor a function"
        raise UserError(f"{called}: {spec.file} defines no {spec.name!r}; {hint}")
    if isinstance(make, nn.Module):
        raise UserError(f"{called} is a network already; name its class, or a function that makes one: seeds decide")
    if not _makes(make):
        what = "a class" if inspect.isclass(make) else f"a {type(make).__name__}"
        raise UserError(
            f"{called} is {what}; name a class of torch.nn.Module, a function that returns one, or an Architecture"
        )
    ours = {key: value for key, value in spec.arguments.items() if key in OURS}
    for key in parameters(make):
        if key in OURS and (key in ours or parameters(make)[key].default is inspect.Parameter.empty):
            raise UserError(
                f"{called} has a parameter {key!r} of its own, which is a name of fedkd's ({', '.join(OURS)}); "
                f"give it another name in {spec.file}, or write a function around it"
            )
    given = {key: value for key, value in spec.arguments.items() if key not in OURS}
    check_given(make, given, called)
    return OwnNetwork(spec, make, given, made("model", Spec(spec.name, ours, spec.file), Dressing))


def _makes(value: object) -> bool:
    """Whether it is a class of networks or a function."""
    return issubclass(value, nn.Module) if inspect.isclass(value) else inspect.isroutine(value)


def _with(settings: Mapping[str, Any]) -> str:
    return " with " + ", ".join(f"{key}={value!r}" for key, value in settings.items()) if settings else ""
