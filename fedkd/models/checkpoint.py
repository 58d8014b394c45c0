from __future__ import annotations

import glob
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from pydantic.dataclasses import dataclass
from safetensors.torch import save
from torch import Tensor

from fedkd.base.catalogue import STRICT
from fedkd.base.disk import write_whole
from fedkd.base.errors import UserError
from fedkd.base.files import candidates
from fedkd.base.spec import parse
from fedkd.models.architecture import Architecture, Kind, Model, Shape
from fedkd.models.assign import ARCHITECTURES
from fedkd.models.blocks.description import Description, described_data, read_description
from fedkd.models.blocks.tensors import CLIENT, client_file, read_weights


def save_checkpoint(path: Path, model_spec: str, model: Model, shape: Shape, classes: int) -> None:
    """Write `model` as a safetensors file with a description of it in the header; the write is atomic.

    A model that was loaded from a checkpoint is described by its architecture, not by the path of the checkpoint.

    Raises:
        UserError: the file cannot be written.
    """
    architecture = ARCHITECTURES.build(model_spec)
    described = architecture.spec if isinstance(architecture, Checkpoint) else str(parse(model_spec))
    tensors = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in model.state_dict().items()
    }
    write_whole(path, save(tensors, metadata=Description(described, shape, classes).entry))


@dataclass(frozen=True, config=STRICT)
class Checkpoint(Architecture):
    """A saved model: `save = "last"` or "best" writes such files, and they know what they hold.

    {client} in FILE stands for the client's id, so that each takes up its own. Other .safetensors files, and .pt and
    .pth files of a state dict, are taken up as the `model` that they are of; the names of torchvision's own state
    dicts are understood for torchvision models. Nothing is unpickled beyond tensors.
    """

    usage = "checkpoint:FILE"

    argument: str
    """path of a .safetensors, .pt or .pth file; {client} stands for the client's id"""
    model: str = ""
    """spec of the model that it holds; empty: what the file says itself"""

    @property
    def spec(self) -> str:
        """Spec of the saved model.

        Raises:
            UserError: neither the user nor the file names the model, or the file names one that only the user may name.
        """
        return self._spec(self._first)

    @property
    def takes(self) -> Kind:
        """What the saved model takes."""
        return self._architecture(self._first).takes

    @property
    def brings_weights(self) -> bool:
        return True

    def build(self, shape: Shape, classes: int) -> Model:
        """A network of the saved model's architecture; `initial` gives its weights."""
        path = self._first
        description = None if self.model else read_description(path)
        if description and (description.shape, description.classes) != (shape, classes):
            raise UserError(
                f"{path} was saved for {description.data}, but these data are "
                f"{described_data(shape, classes)}; where its tensors fit nevertheless, write checkpoint:"
                f"{self.argument}(model={description.model!r})"
            )
        return self._architecture(path).build(shape, classes)

    def initial(self, model: Model, client: int) -> Mapping[str, Tensor]:
        """All tensors of the client's file."""
        path = self._file(client)
        if (spec := self._spec(path)) != self.spec:
            raise UserError(
                f"{path} holds {spec}, but {self._first} holds {self.spec}; give clients with unlike models a "
                f'specification each: "0: checkpoint:… | 1: checkpoint:…"'
            )
        return self._architecture(path).adopted(read_weights(path), model, str(path))

    def files(self, client: int) -> tuple[Path, ...]:
        """The client's file, and the file that the architecture is read from."""
        return tuple(dict.fromkeys((self._first, self._file(client), *self._architecture(self._first).files(client))))

    def _architecture(self, path: Path) -> Architecture:
        return ARCHITECTURES.build(self._spec(path))

    def _spec(self, path: Path) -> str:
        if self.model:
            return str(parse(self.model))
        description = read_description(path)
        if description is None:
            raise UserError(f"{path} does not say which model it holds; write checkpoint:{self.argument}(model=…)")
        spec = parse(description.model)
        if spec.file or spec.name == "checkpoint":
            # A file of code is run where its user names it, not where a file of weights does.
            raise UserError(
                f"{path} says that it holds {description.model}, which it may not decide; if you trust that, write "
                f"checkpoint:{self.argument}(model={description.model!r})"
            )
        return str(spec)

    def _file(self, client: int) -> Path:
        return client_file(self.argument, client)

    @property
    def _first(self) -> Path:
        """The file that the architecture is read from: of several, that of the smallest id."""
        if CLIENT not in self.argument:
            return self._file(0)
        for path in candidates(self.argument):
            if numbers := _numbers(str(path)):
                return self._file(min(numbers))
        raise UserError(f"no client's file is there: {self.argument}, with an id in place of {CLIENT}")


def _numbers(path: str) -> list[int]:
    """The ids for which there is a file at a path in which CLIENT stands for the id."""
    ids = re.compile(re.escape(path).replace(re.escape(CLIENT), r"(\d+)", 1).replace(re.escape(CLIENT), r"\1"))
    # Path.glob takes no pattern of a whole path.
    matches = (ids.fullmatch(name) for name in glob.iglob(glob.escape(path).replace(CLIENT, "*")))  # noqa: PTH207
    return [int(match[1]) for match in matches if match and str(int(match[1])) == match[1]]
