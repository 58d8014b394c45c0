from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from fedkd.base.catalogue import STRICT
from fedkd.base.errors import UserError
from fedkd.base.files import located
from fedkd.models.architecture import Architecture, Kind, LanguageModel, Model, Shape
from fedkd.models.blocks.tensors import check_fit, read_weights


class Headless(nn.Module):
    """A network of transformers up to its head."""

    def __init__(self, whole: Any) -> None:
        super().__init__()
        self.network: Any = whole.base_model
        names = {module: name for name, module in whole.named_modules()}
        self.origin = names[whole.get_output_embeddings()]
        """name of the head in the whole network"""
        inside = {module: name for name, module in self.network.named_modules()}
        self.embedding = inside[whole.get_input_embeddings()]
        """name of the layer that makes vectors of tokens"""

    def forward(self, x: Tensor) -> Tensor:
        """(n, length, width) of (n, length) tokens."""
        features: Tensor = self.network(input_ids=x, use_cache=False).last_hidden_state
        return features


@dataclass(frozen=True, config=STRICT)
class HFCausal(Architecture):
    """A causal language model of Hugging Face's transformers, from a folder with config.json and .safetensors files.

    It needs the package transformers; no code from the folder is run, and nothing is downloaded. It must have as many
    tokens as the data set: one with a tokeniser of its own reads other tokens, which cannot be told from here. Where
    the head shares the weights of the embedding, it gets a copy of its own. Dropout is off, as in every other
    architecture here.
    """

    usage = "hf_causal:FOLDER"

    argument: str
    """folder of the model"""

    @property
    def takes(self) -> Kind:
        return "text"

    @property
    def brings_weights(self) -> bool:
        return True

    def build(self, shape: Shape, classes: int) -> Model:
        # Not on the meta device, where nothing could fill the tables that are no part of a model's state.
        with torch.device("cpu"):
            whole = self._whole(shape[0], classes)
        head = whole.get_output_embeddings()
        model = LanguageModel(Headless(whole), head.in_features, classes)
        model.head = nn.Linear(head.in_features, classes, bias=head.bias is not None)
        return model

    def initial(self, model: Model, client: int) -> Mapping[str, Tensor]:  # noqa: ARG002
        """All tensors in the folder's files."""
        assert isinstance(model.body, Headless)
        stored: dict[str, Tensor] = {}
        for file in self._weights:
            stored |= read_weights(file)
        if not stored:
            raise UserError(f"{self._called}: {self._folder} holds no .safetensors file; nothing else is read")
        # Files name what is below the head with a prefix or, as GPT-2's, without.
        below = {name.removeprefix(f"{model.body.network.base_model_prefix}."): value for name, value in stored.items()}
        tensors = {f"body.network.{name}": value.float() for name, value in below.items()}
        for part in model.head.state_dict():
            of_head = stored.get(f"{model.body.origin}.{part}")
            shared = below.get(f"{model.body.embedding}.{part}")
            if (value := shared if of_head is None else of_head) is not None:
                tensors[f"head.{part}"] = value.float()
        wanted = model.state_dict()
        # Files of old hold masks as well, which are made anew.
        tensors = {name: value for name, value in tensors.items() if name in wanted}
        check_fit(tensors, wanted, f"{self._called}: {self._folder}")
        return tensors

    def files(self, client: int) -> tuple[Path, ...]:  # noqa: ARG002
        """The configuration and the files of weights."""
        return (self._folder / "config.json", *self._weights)

    def _whole(self, length: int, classes: int) -> Any:
        """The network with its own head, as drawn, without dropout."""
        try:
            from transformers import (  # type: ignore[import-not-found,unused-ignore]
                AutoConfig,
                AutoModelForCausalLM,
            )
        except ImportError as error:
            raise UserError(f"{self._called} needs the package transformers: pip install transformers") from error
        if not (self._folder / "config.json").is_file():
            raise UserError(f"{self._called}: {self._folder} holds no config.json; give the folder of a saved model")
        try:
            config = AutoConfig.from_pretrained(str(self._folder), local_files_only=True, trust_remote_code=False)
            for name, value in vars(config).items():
                if "drop" in name and isinstance(value, float):
                    setattr(config, name, 0.0)
            whole = AutoModelForCausalLM.from_config(config, trust_remote_code=False).float().eval()
        # The library raises whatever its own models do.
        except Exception as error:
            reason = str(error).strip().split("\n")[0]
            raise UserError(f"{self._called}: {self._folder} cannot be built ({reason})") from error
        if config.vocab_size != classes:
            raise UserError(f"{self._called} has {config.vocab_size} tokens, but the data set has {classes}")
        context = getattr(config, "max_position_embeddings", None)
        if context and length > context:
            raise UserError(f"{self._called}: chunks have {length} tokens; it takes {context}; lower the data's length")
        _check_head(whole, self._called)
        return whole

    @property
    def _weights(self) -> tuple[Path, ...]:
        return tuple(sorted(self._folder.glob("*.safetensors")))

    @property
    def _folder(self) -> Path:
        return located(self.argument)

    @property
    def _called(self) -> str:
        return f"model hf_causal:{self.argument}"


def _check_head(whole: Any, called: str) -> None:
    """Raise UserError where logits are more than a linear head on the features: scaled, or capped."""
    token = torch.zeros(1, 1, dtype=torch.int64)
    with torch.no_grad():
        logits = whole(input_ids=token).logits
        linear = whole.get_output_embeddings()(whole.base_model(input_ids=token).last_hidden_state)
    if logits.shape != linear.shape or not torch.allclose(logits, linear, atol=1e-5):
        raise UserError(f"{called}: its logits are not a linear head on its features; take a model whose logits are")
