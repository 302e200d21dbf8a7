"""The library's few lines on models of other people: a timm-like vision model and a Hugging Face transformer."""

import pytest
import torch
from torch import Tensor, nn

import prunus


class PatchEmbed(nn.Module):
    def __init__(self, channels: int, width: int, patch: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(channels, width, patch, patch)
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.proj(x).flatten(2).transpose(1, 2))


class MixBlock(nn.Module):
    """A grouped and a depthwise convolution over the patches, then an MLP over the channels, with shortcuts."""

    def __init__(self, width: int, side: int) -> None:
        super().__init__()
        self.side = side
        self.scale = nn.Parameter(torch.full((width,), 0.5))
        self.conv = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1, groups=4, bias=False),
            nn.BatchNorm2d(width),
            nn.GELU(),
            nn.Conv2d(width, width, 3, padding=1, groups=width),
        )
        self.norm = nn.LayerNorm(width)
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(width, 4 * width), "fc2": nn.Linear(4 * width, width)})

    def forward(self, x: Tensor) -> Tensor:
        image = x.transpose(1, 2).unflatten(2, (self.side, self.side))
        x = x + self.scale * self.conv(image).flatten(2).transpose(1, 2)
        return x + self.mlp["fc2"](nn.functional.gelu(self.mlp["fc1"](self.norm(x))))


class Vision(nn.Module):
    """As timm's models are: `forward_features`, `forward_head`, nested blocks, a position embedding, a head."""

    def __init__(self, classes: int = 5, width: int = 16, depth: int = 2) -> None:
        super().__init__()
        self.patch_embed = PatchEmbed(3, width, 4)
        self.pos_embed = nn.Parameter(torch.zeros(1, 16, width))
        self.blocks = nn.Sequential(*[MixBlock(width, 4) for _ in range(depth)])
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)

    def forward_features(self, x: Tensor) -> Tensor:
        return self.norm(self.blocks(self.patch_embed(x) + self.pos_embed))

    def forward_head(self, x: Tensor) -> Tensor:
        return self.head(x.mean(1))

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))


def vision():
    draws = torch.Generator().manual_seed(1)
    x, y = torch.randn(8, 3, 16, 16, generator=draws), torch.randint(5, (8,), generator=draws)
    model = Vision()
    return model, lambda: nn.functional.cross_entropy(model(x), y)


def bert():
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=50,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=12,
        num_labels=3,
    )
    draws = torch.Generator().manual_seed(1)
    ids, labels = torch.randint(50, (6, 10), generator=draws), torch.randint(3, (6,), generator=draws)
    model = transformers.BertForSequenceClassification(config)
    return model, lambda: model(input_ids=ids, labels=labels).loss


@pytest.mark.parametrize("make", [vision, bert])
@pytest.mark.filterwarnings("ignore:no weight is kept in:UserWarning")
def test_pruned_and_trained_by_adamw_it_is_exactly_sparse_and_still_itself(make):
    with torch.random.fork_rng(devices=[]):  # initialisation and dropout draw from torch's own generator
        torch.manual_seed(0)
        model, loss = make()
        kind, keys = type(model), list(model.state_dict())
        masks = prunus.prune(model, prunus.Magnitude(), density=0.1)
        prunus.apply(model, masks)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.1)
        before = loss().item()
        for _ in range(20):
            optimizer.zero_grad()
            loss().backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            named = dict(model.named_parameters())
            assert all((named[name][~mask] == 0).all() for name, mask in masks.items())
        assert loss().item() < before
    linear = {n for n, m in model.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)}
    assert set(masks) == {f"{name}.weight" for name in linear}
    assert sum(int(named[name].count_nonzero()) for name in masks) == masks.kept == round(0.1 * masks.total)
    assert prunus.masks_of(model) == masks
    assert type(model) is kind
    assert list(model.state_dict()) == keys
