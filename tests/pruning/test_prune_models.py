"""Any model in one line: wrapped, compiled, by keywords, of Transformers, of the user's own."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import prunus
from prunus.core.errors import Invalid
from prunus.pruning import CRITERIA
from tiny_nets import scoring
from toy import MLP, ConvNet, Tied, Transformer, batch, build

every_criterion = pytest.mark.parametrize("name", list(CRITERIA))
quick: dict[str, Any] = {"rounds": 2, "protect": 1}


def masks_for(model: nn.Module, name: str, data: list, density: float = 0.3, **given: Any) -> list[Tensor]:
    """The masks of a criterion, in the order of the parameters."""
    offered = {"batches": data, "generator": torch.Generator().manual_seed(0)}
    used = {option: offered[option] for option in CRITERIA[name].uses & offered.keys()}
    masks = prunus.prune(model, name, density, **quick, **used, **given)
    assert masks.kept == round(density * masks.total)
    assert all(layer.kept for layer in masks.layers)
    return list(masks.values())


def equal(some: list[Tensor], others: list[Tensor]) -> bool:
    return len(some) == len(others) and all(torch.equal(a, b) for a, b in zip(some, others, strict=True))


# Wrapped, compiled, laid out otherwise


@pytest.fixture
def one_rank(tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@every_criterion
@pytest.mark.parametrize("kind", [ConvNet, Tied])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own, on importing its compiler
def test_wrappers_change_nothing(name, kind, one_rank):
    data = [batch(kind)]
    expected = masks_for(build(kind), name, data)
    for wrap in (torch.compile, nn.DataParallel, nn.parallel.DistributedDataParallel):
        assert equal(masks_for(wrap(build(kind)), name, data), expected), wrap
    torch._dynamo.reset()


@every_criterion
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_compiled_part_changes_nothing(name):
    data = [batch(ConvNet)]
    expected = masks_for(build(ConvNet), name, data)
    model = build(ConvNet)
    model.more = torch.compile(model.more)
    assert equal(masks_for(model, name, data), expected)
    model = build(ConvNet)
    model.compile()
    assert equal(masks_for(model, name, data), expected)
    torch._dynamo.reset()


def test_ddp_still_trains_after_pruning(one_rank):
    model = nn.parallel.DistributedDataParallel(build(ConvNet))
    x, y = batch(ConvNet)
    for name in ("snip", "grasp", "synflow"):
        masks_for(model, name, [(x, y)])
        nn.functional.cross_entropy(model(x), y).backward()  # DDP counts the passes it has seen
    assert all(parameter.grad is not None for parameter in model.parameters())


@every_criterion
def test_the_memory_format_changes_nothing(name):
    data = [batch(ConvNet)]
    model = build(ConvNet).to(memory_format=torch.channels_last)
    assert equal(masks_for(model, name, data), masks_for(build(ConvNet), name, data))


@every_criterion
def test_frozen_parameters_change_nothing(name):
    data = [batch(ConvNet)]
    model = build(ConvNet).requires_grad_(False)
    assert equal(masks_for(model, name, data), masks_for(build(ConvNet), name, data))


@every_criterion
def test_a_part_of_a_model_may_be_pruned(name):
    given = {"include": ["features.*", "head.weight"]}
    masks = masks_for(build(ConvNet), name, [batch(ConvNet)], **given)
    assert len(masks) == 2


# Tied weights


@pytest.mark.parametrize("name", ["saliency", "snip", "grasp", "force"])
def test_tied_weights_score_as_the_sum_of_their_places(name):
    class Apart(Tied):
        def __init__(self) -> None:
            super().__init__()
            self.second.weight = nn.Parameter(self.first.weight.detach().clone())

    tied, apart, data = build(Tied).double(), build(Apart).double(), [(batch(Tied)[0].double(), batch(Tied)[1])]
    apart.load_state_dict(tied.state_dict())
    weights = list(prunus.prunable(apart).values())
    loss = nn.functional.cross_entropy(apart(data[0][0]) / (200 if name == "grasp" else 1), data[0][1])
    if name == "grasp":  # the gradient of half the squared norm of what a common change does
        first = torch.autograd.grad(loss, weights, create_graph=True)
        common = [first[0] + first[1], *first[2:]]
        first = torch.autograd.grad(sum(g.square().sum() for g in common) / 2, weights)
    else:
        first = torch.autograd.grad(loss, weights)
    shared = [first[0] + first[1], *first[2:]]
    found = CRITERIA[name]()(scoring(tied, batches=data))
    assert len(found) == len(shared) == 3
    form = abs if name in ("snip", "force") else (lambda t: t)
    for tensor, weight, gradient in zip(found.values(), prunus.prunable(tied).values(), shared, strict=True):
        torch.testing.assert_close(tensor, form(weight.detach() * gradient), rtol=1e-9, atol=1e-15)


# What a model takes


class ByName(ConvNet):
    """The toy network, whose inputs go by name and whose outputs are a mapping."""

    def forward(self, *, image: Tensor, scale: float = 1.0) -> dict[str, Tensor]:  # type: ignore[override]
        return {"logits": super().forward(image * scale), "features": image}


@every_criterion
@pytest.mark.parametrize("form", ["mapping", "mapping and targets"])
def test_models_that_take_names_and_give_mappings(name, form):
    x, y = batch(ConvNet)
    data = [{"image": x, "labels": y}] if form == "mapping" else [({"image": x, "scale": 1.0}, y)]
    model = build(ByName)
    if form == "mapping":
        forward = model.forward
        model.forward = lambda labels=None, **inputs: forward(**inputs)  # as Transformers' models take labels
    assert equal(masks_for(model, name, data), masks_for(build(ConvNet), name, [(x, y)]))


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(6, 5), nn.Linear(4, 5)
        self.head = nn.Linear(5, 3)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return self.head(torch.relu(self.left(a) + self.right(b)))


@every_criterion
def test_models_of_two_inputs(name):
    draws = torch.Generator().manual_seed(0)
    a, b, y = torch.randn(9, 6, generator=draws), torch.randn(9, 4, generator=draws), torch.arange(9) % 3
    masks_for(build(TwoInputs), name, [((a, b), y)])


def tiny_config(kind: str) -> tuple[Any, Callable[[torch.Generator], dict[str, Tensor]]]:
    """A model of Transformers with random weights, and what makes a batch for it."""
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}

    def tokens(draws: torch.Generator) -> dict[str, Tensor]:
        lengths = torch.arange(12) % 5 + 3
        return {
            "input_ids": torch.randint(1, 40, (12, 7), generator=draws),
            "attention_mask": (torch.arange(7) < lengths[:, None]).long(),
            "labels": torch.arange(12) % 3,
        }

    def text(draws: torch.Generator) -> dict[str, Tensor]:
        ids = torch.randint(1, 40, (12, 7), generator=draws)
        return {"input_ids": ids, "labels": ids}

    def images(draws: torch.Generator) -> dict[str, Tensor]:
        return {"pixel_values": torch.randn(12, 3, 8, 8, generator=draws), "labels": torch.arange(12) % 3}

    gpt2 = {"vocab_size": 40, "n_positions": 16, "n_embd": 16, "n_layer": 2, "n_head": 2}
    if kind == "BERT":
        config = transformers.BertConfig(vocab_size=40, max_position_embeddings=16, num_labels=3, **sizes)
        return transformers.BertForSequenceClassification(config), tokens
    if kind == "GPT-2 classifier":
        config = transformers.GPT2Config(num_labels=3, pad_token_id=0, **gpt2)
        return transformers.GPT2ForSequenceClassification(config), tokens
    if kind == "GPT-2":
        return transformers.GPT2LMHeadModel(transformers.GPT2Config(**gpt2)), text
    if kind == "ViT":
        config = transformers.ViTConfig(image_size=8, patch_size=4, num_labels=3, **sizes)
        return transformers.ViTForImageClassification(config), images
    config = transformers.LlamaConfig(vocab_size=40, num_key_value_heads=1, **sizes)
    return transformers.LlamaForCausalLM(config), text


TRANSFORMERS = ["BERT", "GPT-2 classifier", "GPT-2", "ViT", "Llama"]


@every_criterion
@pytest.mark.parametrize("kind", TRANSFORMERS)
def test_transformers(name, kind):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model, make = tiny_config(kind)
    state = copy.deepcopy(model.state_dict())
    data = [make(torch.Generator().manual_seed(seed)) for seed in range(2)]
    masks_for(model, name, data)
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("kind", TRANSFORMERS)
def test_synflow_finds_out_what_a_transformer_takes(kind):
    model, _ = tiny_config(kind)
    masks = prunus.prune(model, prunus.SynFlow(), density=0.1, **quick)
    assert masks.kept == round(0.1 * masks.total)


def test_the_models_own_loss_is_the_default():
    model, make = tiny_config("GPT-2")
    data = make(torch.Generator().manual_seed(0))
    own = prunus.prune(model, prunus.SNIP(), 0.2, batches=[data])

    def next_token(outputs: Any, targets: Tensor) -> Tensor:
        return nn.functional.cross_entropy(outputs.logits[:, :-1].flatten(0, 1), targets[:, 1:].flatten())

    assert own == prunus.prune(model, prunus.SNIP(), 0.2, batches=[data], loss=next_token)
    # with a temperature too
    cooled = prunus.prune(model, prunus.GraSP(), 0.2, batches=[data])
    assert cooled == prunus.prune(model, prunus.GraSP(), 0.2, batches=[data], loss=next_token)
    assert cooled != own


def test_a_loss_that_has_no_temperature_is_told():
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=40, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, num_labels=3
    )
    config.problem_type = "multi_label_classification"
    model = transformers.BertForSequenceClassification(config)
    data = {"input_ids": torch.randint(1, 40, (6, 5)), "labels": torch.rand(6, 3).round()}
    with pytest.raises(Invalid, match=r"no cross-entropy, so it has no temperature=200; allowed: temperature=1, or lo"):
        prunus.prune(model, prunus.GraSP(), 0.5, batches=[data])
    assert prunus.prune(model, prunus.GraSP(temperature=1), 0.5, batches=[data], protect=1).density == 0.5


class OfTheUser(nn.Module):
    """A convolutional network with a residual connection and a grouped convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        self.grouped = nn.Conv2d(16, 16, 3, padding=1, groups=4, bias=False)
        self.norm, self.point = nn.GroupNorm(4, 16), nn.Conv2d(16, 16, 1)
        self.down, self.head = nn.Conv2d(16, 32, 3, stride=2), nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.point(nn.functional.silu(self.norm(self.grouped(x))))
        return self.head(self.down(x).relu().amax((2, 3)))


@every_criterion
def test_a_convolutional_network_of_the_users_own(name):
    draws = torch.Generator().manual_seed(0)
    data = [(torch.randn(20, 3, 32, 32, generator=draws), torch.arange(20) % 10)]
    masks_for(build(OfTheUser), name, data)


def test_synflow_needs_no_more_than_the_model():
    for kind in (OfTheUser, MLP, Transformer):
        masks = prunus.prune(build(kind), prunus.SynFlow(), density=0.1, **quick)
        assert masks.kept == round(0.1 * masks.total)
