"""Language models: a head on features of every place, nothing learnt from what comes later, and one start a seed."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor

from fedkd.base.errors import UserError
from fedkd.base.spec import parse
from fedkd.base.streams import stream
from fedkd.models import ARCHITECTURES, Architecture, LanguageModel, Model, build_model, restored_model
from fedkd.models.blocks.description import read_description
from fedkd.models.checkpoint import save_checkpoint
from fedkd.models.gpt import Attention, Decoder
from fedkd.settings.training import Optimisation
from fedkd.training.optimisers import SGD
from tests.small import distance, own_cache, same_weights, weights

__all__ = ["own_cache"]

LENGTH, VOCABULARY = 9, 13
SPECS = ["gpt(layers=2, width=8, heads=2)", "gru(width=8)", "gru(width=8, layers=2)", "gpt(layers=1, width=6, heads=1)"]
EVERY = pytest.mark.parametrize("spec", SPECS)


def made(spec: str, seed: int = 0, length: int = LENGTH, purpose: str = "init") -> Model:
    return build_model(spec, (length,), VOCABULARY, seed, purpose)


def predicted(model: Model, x: Tensor) -> Tensor:
    """(n, length, classes) logits without gradients."""
    with torch.no_grad():
        logits: Tensor = model.eval()(x)
        return logits


def tokens(n: int, length: int = LENGTH, *name: str) -> Tensor:
    return torch.randint(VOCABULARY, (n, length), generator=stream("tokens", *name))


def found() -> list[Architecture]:
    """All architectures that need no argument."""
    names = [name for name in ARCHITECTURES.names if not hasattr(ARCHITECTURES.find(parse(name)), "usage")]
    return [ARCHITECTURES.build(name) for name in names]


def test_the_catalogue_holds_them_beside_those_for_images() -> None:
    kinds = [architecture.takes for architecture in found()]
    assert kinds.count("text") >= 2
    assert kinds.count("images") >= 10


@EVERY
class TestContract:
    def test_logits_are_the_head_on_features_of_every_place(self, spec: str) -> None:
        model, x = made(spec).eval(), tokens(3)
        assert isinstance(model, LanguageModel)
        features = model.features(x)
        assert features.shape == (3, LENGTH, model.head.in_features)
        logits = model(x)
        assert logits.shape == (3, LENGTH, VOCABULARY)
        assert torch.equal(logits, F.linear(features, model.head.weight, model.head.bias))

    def test_a_later_token_changes_no_earlier_prediction(self, spec: str) -> None:
        model, x = made(spec), tokens(2)
        plain = predicted(model, x)
        for place in range(LENGTH):
            other = x.clone()
            other[:, place] = (other[:, place] + 1) % VOCABULARY
            changed = predicted(model, other)
            torch.testing.assert_close(changed[:, :place], plain[:, :place], rtol=0, atol=1e-6)
            for later in range(place, LENGTH):
                gap = float((changed[:, later] - plain[:, later]).abs().max())
                assert gap > 1e-6, "what was before is seen"

    def test_chunks_do_not_see_each_other(self, spec: str) -> None:
        model, x = made(spec), tokens(4)
        torch.testing.assert_close(predicted(model, x)[2:3], predicted(model, x[2:3]), rtol=0, atol=1e-6)

    def test_a_shorter_chunk_is_predicted_like_the_beginning_of_a_longer_one(self, spec: str) -> None:
        model, x = made(spec), tokens(2)
        torch.testing.assert_close(predicted(model, x[:, :4]), predicted(model, x)[:, :4], rtol=0, atol=1e-6)

    def test_training_and_evaluation_mode_predict_the_same(self, spec: str) -> None:
        model, x = made(spec), tokens(2)
        assert torch.equal(model.train()(x), model.eval()(x))

    def test_all_weights_but_those_of_absent_tokens_and_places_are_learned(self, spec: str) -> None:
        model, x = made(spec), torch.arange(VOCABULARY).unsqueeze(0)[:, :LENGTH]
        loss = F.cross_entropy(model(x).flatten(0, 1), x.flatten())
        for (name, _), gradient in zip(
            model.named_parameters(), torch.autograd.grad(loss, list(model.parameters())), strict=True
        ):
            assert float(gradient.abs().sum()) > 0, name

    def test_a_restored_model_predicts_the_same_to_the_last_bit_and_learns_on(self, spec: str) -> None:
        model, x = made(spec, seed=3), tokens(2)
        again = restored_model(spec, (LENGTH,), VOCABULARY, weights(model))
        assert torch.equal(again(x), model(x))
        assert not any(tensor.is_meta for tensor in [*again.parameters(), *again.buffers()])
        assert sum(float(g.abs().sum()) for g in torch.autograd.grad(again(x).sum(), list(again.parameters()))) > 0

    def test_the_same_seed_gives_the_same_start_and_another_another(self, spec: str) -> None:
        assert same_weights(weights(made(spec)), weights(made(spec)))
        assert distance(weights(made(spec)), weights(made(spec, seed=1))) > 1e-3
        assert distance(weights(made(spec)), weights(made(spec, purpose="init/client 1"))) > 1e-3

    def test_at_first_every_token_is_about_as_likely(self, spec: str) -> None:
        x = tokens(50)
        loss = float(F.cross_entropy(made(spec)(x).flatten(0, 1), tokens(50, LENGTH, "y").flatten()).detach())
        assert abs(loss - torch.tensor(float(VOCABULARY)).log()) < 0.3

    def test_a_few_steps_learn_a_text_that_repeats_itself(self, spec: str) -> None:
        model = made(spec)
        text = torch.arange(4).repeat(40)
        x, y = text[: 8 * LENGTH].view(8, LENGTH), text[1 : 8 * LENGTH + 1]
        optimiser = SGD(list(model.parameters()), Optimisation(lr=0.3, momentum=0.9))
        for _ in range(60):
            loss = F.cross_entropy(model(x).flatten(0, 1), y)
            optimiser.step(torch.autograd.grad(loss, list(model.parameters())))
        assert float(loss.detach()) < 0.3

    def test_it_is_saved_and_taken_up_again(self, spec: str, tmp_path: Path) -> None:
        model, path = made(spec, seed=3), tmp_path / "model.safetensors"
        save_checkpoint(path, spec, model, (LENGTH,), VOCABULARY)
        said = read_description(path)
        assert said is not None
        assert (said.model, said.shape, said.data) == (spec, (LENGTH,), f"chunks of {LENGTH} out of 13 tokens")
        assert same_weights(weights(made(f"checkpoint:{path}")), weights(model))
        with pytest.raises(
            UserError, match=r"saved for chunks of 9 out of 13 tokens, but these data are chunks of 9 ou"
        ):
            build_model(f"checkpoint:{path}", (LENGTH,), 256, 0, "init")
        with pytest.raises(UserError, match=r"model checkpoint:.* takes text; for images use cnn or mlp"):
            build_model(f"checkpoint:{path}", (1, 8, 8), VOCABULARY, 0, "init")


class TestGPT:
    def test_attention_is_the_softmax_of_scaled_products_up_to_each_place(self) -> None:
        torch.manual_seed(0)
        layer, x = Attention(6, 2).double(), torch.randn(2, 5, 6, dtype=torch.float64)
        query, key, value = (part.split(3, dim=2) for part in layer.asked(x).split(6, dim=2))
        heads = []
        for q, k, v in zip(query, key, value, strict=True):
            rows = []
            for place in range(5):
                scores = (k[:, : place + 1] @ q[:, place].unsqueeze(2)).squeeze(2) / 3**0.5
                rows.append((scores.softmax(1).unsqueeze(2) * v[:, : place + 1]).sum(1))
            heads.append(torch.stack(rows, 1))
        torch.testing.assert_close(layer(x), layer.merged(torch.cat(heads, 2)))

    def test_it_has_the_weights_that_its_description_counts(self) -> None:
        layers, width, context = 3, 16, 40
        model = build_model(f"gpt(layers={layers}, width={width}, context={context})", (10,), 50, 0, "init")
        block = 12 * width**2 + 13 * width  # 3 + 1 + 4 + 4 matrices; biases 9 wide, two norms of 2
        whole = (50 + context) * width + layers * block + 2 * width + (width + 1) * 50
        assert sum(parameter.numel() for parameter in model.parameters()) == whole

    def test_places_matter(self) -> None:
        logits = predicted(made(SPECS[0]), torch.zeros(1, LENGTH, dtype=torch.int64))
        assert float((logits[0, 1:] - logits[0, :1]).abs().max()) > 1e-4

    def test_what_ends_a_shortcut_starts_smaller(self) -> None:
        body = build_model("gpt(layers=8, width=64)", (8,), 256, 0, "init").body
        assert isinstance(body, Decoder)
        for name, wanted in (("wide", 0.02), ("narrow", 0.02 / 4), ("attention.merged", 0.02 / 4)):
            weight = body.blocks[0].get_parameter(f"{name}.weight")
            assert float(weight.detach().std()) == pytest.approx(wanted, rel=0.05)

    def test_a_chunk_longer_than_the_context_is_refused(self) -> None:
        with pytest.raises(UserError, match=r"chunks have 300 tokens, but context=256; write gpt\(context=300\)"):
            made("gpt", length=300)
        assert made("gpt(layers=1, width=8, context=300)", length=300)(tokens(1, 300)).shape == (1, 300, VOCABULARY)

    def test_heads_share_the_width(self) -> None:
        with pytest.raises(UserError, match="model gpt: width=10 cannot be shared by heads=4"):
            ARCHITECTURES.build("gpt(width=10)")


@pytest.mark.parametrize("spec", ["cnn", "mlp", "lenet5", "resnet8", "wrn", "vgg8", "shufflenet_v2", "mobilenet_v2"])
def test_models_of_images_refuse_text(spec: str) -> None:
    with pytest.raises(UserError, match=f"model {spec} takes images; for text use gpt or gru"):
        made(spec)


@EVERY
def test_models_of_text_refuse_images(spec: str) -> None:
    with pytest.raises(UserError, match=r"model g.* takes text; for images use cnn or mlp"):
        build_model(spec, (1, 8, 8), 10, 0, "init")


class _Network(torch.nn.Module):
    """What transformers calls a base model: it looks at the tokens so far."""

    base_model_prefix = "core"

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.wte = torch.nn.Embedding(config.vocab_size, 6)
        self.drop = torch.nn.Dropout(config.embd_pdrop)
        self.register_buffer("table", torch.full((6,), 2.0), persistent=False)

    def forward(self, input_ids: Tensor, use_cache: bool = True) -> Any:
        del use_cache
        return SimpleNamespace(last_hidden_state=self.drop(self.wte(input_ids)).cumsum(1) * self.table)


class _Causal(torch.nn.Module):
    """What transformers calls a causal language model, with a head that shares its weights."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.core = _Network(config)
        self.lm_head = torch.nn.Linear(6, config.vocab_size, bias=False)
        self.lm_head.weight = self.core.wte.weight
        self.scale = config.scale

    @property
    def base_model(self) -> _Network:
        return self.core

    def get_output_embeddings(self) -> torch.nn.Linear:
        return self.lm_head

    def get_input_embeddings(self) -> torch.nn.Embedding:
        return self.core.wte

    def forward(self, input_ids: Tensor) -> Any:
        return SimpleNamespace(logits=self.lm_head(self.core(input_ids).last_hidden_state) * self.scale)


@pytest.fixture
def hugging(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of a model, and in place of transformers two classes that are called as its own are."""

    def read(folder: str, *, local_files_only: bool, trust_remote_code: bool) -> Any:
        assert local_files_only
        assert not trust_remote_code
        return SimpleNamespace(**json.loads((Path(folder) / "config.json").read_text()))

    def made(config: Any, *, trust_remote_code: bool) -> _Causal:
        assert not trust_remote_code
        return _Causal(config)

    library: Any = ModuleType("transformers")
    library.AutoConfig = SimpleNamespace(from_pretrained=read)
    library.AutoModelForCausalLM = SimpleNamespace(from_config=made)
    monkeypatch.setitem(sys.modules, "transformers", library)
    configure(tmp_path)
    save_file({"core.wte.weight": torch.rand(VOCABULARY, 6)}, tmp_path / "model.safetensors")
    return tmp_path


def configure(folder: Path, **settings: float) -> None:
    """Write a description of the model."""
    plain = {"vocab_size": VOCABULARY, "embd_pdrop": 0.9, "max_position_embeddings": 20, "scale": 1.0}
    (folder / "config.json").write_text(json.dumps(plain | settings))


class TestHuggingFace:
    """The library is not installed everywhere: two classes stand for it, which are called as it documents."""

    def test_its_weights_are_taken_up_the_heads_too_and_dropout_is_off(self, hugging: Path) -> None:
        model, stored = made(f"hf_causal:{hugging}"), load_file(hugging / "model.safetensors")["core.wte.weight"]
        assert same_weights(weights(model), {"body.network.wte.weight": stored, "head.weight": stored})
        x = tokens(2)
        wanted = stored[x].cumsum(1) * 2 @ stored.T
        torch.testing.assert_close(predicted(model, x), wanted)
        assert torch.equal(model.train()(x).detach(), predicted(model, x))

    def test_its_files_are_told(self, hugging: Path) -> None:
        files = ARCHITECTURES.build(f"hf_causal:{hugging}").files(0)
        assert files == (hugging / "config.json", hugging / "model.safetensors")

    @pytest.mark.parametrize("prefix", ["", "core."])
    def test_names_have_a_prefix_or_none_and_a_head_of_its_own_is_kept(self, hugging: Path, prefix: str) -> None:
        own = {f"{prefix}wte.weight": torch.rand(VOCABULARY, 6).half(), "lm_head.weight": torch.rand(VOCABULARY, 6)}
        save_file(own | {f"{prefix}mask": torch.ones(3)}, hugging / "model.safetensors")
        model = made(f"hf_causal:{hugging}")
        assert torch.equal(model.head.weight, own["lm_head.weight"])
        assert torch.equal(model.get_parameter("body.network.wte.weight"), own[f"{prefix}wte.weight"].float())

    def test_it_is_restored_with_its_tables_and_the_head_learns_apart(self, hugging: Path) -> None:
        spec = f"hf_causal:{hugging}"
        model = made(spec)
        again = restored_model(spec, (LENGTH,), VOCABULARY, weights(model))
        assert torch.equal(predicted(again, tokens(2)), predicted(model, tokens(2)))
        assert not any(tensor.is_meta for tensor in [*again.parameters(), *again.buffers()])
        assert again.head.weight is not again.get_parameter("body.network.wte.weight")

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"vocab_size": 99}, "has 99 tokens, but the data set has 13"),
            ({"max_position_embeddings": 8}, "chunks have 9 tokens; it takes 8"),
            ({"scale": 0.5}, "logits are not a linear head"),
        ],
    )
    def test_what_does_not_fit_is_refused(self, hugging: Path, settings: dict[str, float], message: str) -> None:
        configure(hugging, **settings)
        with pytest.raises(UserError, match=rf"model hf_causal:.*{message}"):
            made(f"hf_causal:{hugging}")

    @pytest.mark.parametrize(
        ("file", "message"),
        [("config.json", r"holds no config\.json"), ("model.safetensors", r"holds no \.safetensors file")],
    )
    def test_what_is_missing_is_named(self, hugging: Path, file: str, message: str) -> None:
        (hugging / file).unlink()
        with pytest.raises(UserError, match=message):
            made(f"hf_causal:{hugging}")

    def test_weights_of_another_model_are_refused(self, hugging: Path) -> None:
        save_file({"core.wte.weight": torch.rand(VOCABULARY, 5)}, hugging / "model.safetensors")
        with pytest.raises(UserError, match=r"'body\.network\.wte\.weight' has shape 13×5, not 13×6"):
            made(f"hf_causal:{hugging}")

    def test_without_the_library_one_message_says_so(self, hugging: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "transformers", None)
        with pytest.raises(UserError, match=r"needs the package transformers: pip install transformers"):
            made(f"hf_causal:{hugging}")
