"""lectures/recipe.md: its ten lines run, and do what SAM does."""

import re
from functools import partial
from pathlib import Path

import torch

from sam_lite.data import batches, load
from sam_lite.models import build, mlp
from sam_lite.params import add, loss_of, params_of
from sam_lite.sam import sam_gradient

RECIPE = Path(__file__).parent.parent / "lectures" / "recipe.md"


def test_the_ten_lines_are_sam_with_momentum():
    blocks = re.findall(r"```python\n(.*?)```", RECIPE.read_text(encoding="utf-8"), re.DOTALL)
    lines = [line for line in blocks[0].splitlines() if line.strip()]
    assert len(blocks) == 1 and len(lines) <= 10, "the page promises ten"
    data = load("mnist1d", n_train=96, n_test=1)
    model = build(partial(mlp, 40, [20], 10), seed=0).double()
    order = list(batches(96, 32, torch.Generator().manual_seed(0)))
    loader = [(data.x_train[index].double(), data.y_train[index]) for index in order]
    start = params_of(model)
    exec(blocks[0], {"torch": torch, "model": model, "loader": loader, "epochs": 2})
    w, velocity = start, {name: torch.zeros_like(p) for name, p in start.items()}
    for x, y in 2 * loader:
        gradient = sam_gradient(loss_of(model, x, y), w, 0.05)[0]
        velocity = {name: 0.9 * velocity[name] + g for name, g in gradient.items()}
        w = add(w, velocity, -0.1)
    for name, weight in params_of(model).items():
        torch.testing.assert_close(weight, w[name], rtol=0, atol=1e-10)
