"""lectures/recipe.md: its ten lines run, and do what SAM does."""

import re
from functools import partial
from pathlib import Path

import torch
from torch import nn

from sam_lite.data import batches, load
from sam_lite.models import build, mlp
from sam_lite.params import add, loss_of, params_of
from sam_lite.sam import SAM, sam_gradient

RECIPE = Path(__file__).parent.parent / "lectures" / "recipe.md"
BLOCKS = re.findall(r"```python\n(.*?)```", RECIPE.read_text(encoding="utf-8"), re.DOTALL)


def test_the_ten_lines_are_sam_with_momentum():
    lines = [line for line in BLOCKS[0].splitlines() if line.strip()]
    assert len(lines) <= 10, "the page promises ten"
    data = load("mnist1d", n_train=96, n_test=1)
    model = build(partial(mlp, 40, [20], 10), seed=0).double()
    order = list(batches(96, 32, torch.Generator().manual_seed(0)))
    loader = [(data.x_train[index].double(), data.y_train[index]) for index in order]
    start = params_of(model)
    exec(BLOCKS[0], {"torch": torch, "model": model, "loader": loader, "epochs": 2})
    w, velocity = start, {name: torch.zeros_like(p) for name, p in start.items()}
    for x, y in 2 * loader:
        gradient = sam_gradient(loss_of(model, x, y), w, 0.05)[0]
        velocity = {name: 0.9 * velocity[name] + g for name, g in gradient.items()}
        w = add(w, velocity, -0.1)
    for name, weight in params_of(model).items():
        torch.testing.assert_close(weight, w[name], rtol=0, atol=1e-10)


def test_with_mixed_precision_the_step_is_sams_clipped_to_length_one():
    """The lines for a GPU on a CPU, where autocast works alike. Dropout shows that both passes leave out the same units."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(40, 50), nn.Dropout(), nn.ReLU(), nn.Linear(50, 10))
    loader = [(20 * torch.randn(32, 40), torch.arange(32) % 10)]
    optimizer, start = SAM(torch.optim.SGD(model.parameters(), lr=0.1), rho=0.05), params_of(model)
    torch.manual_seed(1)
    names = {"torch": torch, "model": model, "loader": loader, "optimizer": optimizer}
    exec(BLOCKS[1].replace('"cuda"', '"cpu"').replace("float16", "bfloat16"), names)
    torch.manual_seed(1)
    kept = torch.nn.functional.dropout(torch.ones(32, 50))

    def loss(w):
        h = (loader[0][0] @ w["0.weight"].T + w["0.bias"]) * kept
        return torch.nn.functional.cross_entropy(h.relu() @ w["3.weight"].T + w["3.bias"], loader[0][1])

    expected = torch.cat([g.flatten() for g in sam_gradient(loss, start, 0.05)[0].values()])
    moved = torch.cat([(start[name] - w).flatten() for name, w in params_of(model).items()])
    assert expected.norm() > 1 and len(BLOCKS) == 2
    torch.testing.assert_close(moved.norm(), torch.tensor(0.1), rtol=1e-3, atol=0)
    assert torch.cosine_similarity(moved, expected, dim=0) > 0.99
