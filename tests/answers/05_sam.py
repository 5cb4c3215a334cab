"""Answers to exercise 5. WRONG: (mistake, cell, what stands there, what a student wrote). RIGHT: (name, {cell: text})."""

WRONG = [
    (
        "norm per tensor",
        "climb",
        "return {name: rho * g / length for",
        "return {name: rho * g / g.norm() for",
    ),
    ("not normalized", "climb", "rho * g / length for", "rho * g for"),
    ("a constant added to the norm", "climb", "    if length == 0:", "    length = length + 1e-6\n    if length == 0:"),
    ("NaN at a zero gradient", "climb", "if length == 0:", "if False:"),
    (
        "normalizes the gradients in place",
        "climb",
        "    return {name: rho * g / length for name, g in grads.items()}",
        "    return {name: g.mul_(rho / length) for name, g in grads.items()}",
    ),
    ("divides by the largest entry", "climb_inf", "torch.sign(g)", "g / max(t.abs().max() for t in grads.values())"),
    ("ASAM with one factor", "climb_adaptive", "rho * params[name].abs() * t / length", "rho * t / length"),
    (
        "ASAM with the sign of w",
        "climb_adaptive",
        "rho * params[name].abs() * t / length",
        "rho * params[name] * t / length",
    ),
    (
        "no second gradient",
        "gradient_of_sam",
        "return grad(loss)(add(params, ascent(g, params, rho)))",
        "return g",
    ),
    (
        "climbs down",
        "gradient_of_sam",
        "add(params, ascent(g, params, rho))",
        "add(params, ascent(g, params, rho), -1)",
    ),
    (
        "differentiates through the ascent",
        "gradient_of_sam",
        "return grad(loss)(add(params, ascent(g, params, rho)))",
        "return grad(lambda p: loss(add(p, ascent(grad(loss)(p), p, rho))))(params)",
    ),
    ("the first group alone", "sam_step", "list(model.parameters())", 'optimizer.param_groups[0]["params"]'),
    ("weights stay at w + e", "sam_step", "            p.copy_(before)", "            pass"),
    (
        "back by subtraction",
        "sam_step",
        "        for p in weights:\n            p += rho * p.grad / length\n    optimizer.zero_grad()\n"
        "    cross_entropy(model(x), y).backward()\n    with torch.no_grad():\n"
        "        for p, before in zip(weights, saved):\n            p.copy_(before)",
        "        steps = [rho * p.grad / length for p in weights]\n        for p, e in zip(weights, steps):\n            p += e\n"
        "    optimizer.zero_grad()\n    cross_entropy(model(x), y).backward()\n    with torch.no_grad():\n"
        "        for p, e in zip(weights, steps):\n            p -= e",
    ),
    (
        "back after the step",
        "sam_step",
        "        for p in weights:\n            p += rho * p.grad / length\n    optimizer.zero_grad()\n"
        "    cross_entropy(model(x), y).backward()\n    with torch.no_grad():\n"
        "        for p, before in zip(weights, saved):\n            p.copy_(before)\n    optimizer.step()",
        "        steps = [rho * p.grad / length for p in weights]\n        for p, e in zip(weights, steps):\n            p += e\n"
        "    optimizer.zero_grad()\n    cross_entropy(model(x), y).backward()\n    optimizer.step()\n"
        "    with torch.no_grad():\n        for p, e in zip(weights, steps):\n            p -= e",
    ),
    (
        "gradients added up",
        "sam_step",
        "    optimizer.zero_grad()\n    cross_entropy(model(x), y).backward()",
        "    cross_entropy(model(x), y).backward()",
    ),
    (
        "weight decay in the ascent",
        "sam_step",
        "        length = torch.sqrt(",
        '        for p in weights:\n            p.grad += optimizer.param_groups[0]["weight_decay"] * p\n        length = torch.sqrt(',
    ),
    ("steps twice", "sam_step", "    optimizer.step()\n", "    optimizer.step()\n    optimizer.step()\n"),
    (
        "returns the loss at w + e",
        "sam_step",
        "    cross_entropy(model(x), y).backward()",
        "    loss = cross_entropy(model(x), y)\n    loss.backward()",
    ),
    (
        "each micro-batch climbs by itself",
        "one_big_batch",
        "    return mean_gradient(add(params, ascent(mean_gradient(params), params, rho)))",
        "    parts = [sam_gradient(loss, params, rho)[0] for loss in losses]\n"
        "    return {name: sum(part[name] for part in parts) / len(losses) for name in params}",
    ),
    ("the sum for the mean", "one_big_batch", " / len(losses)", ""),
    ("the sum for the mean", "own_ascents", " / len(losses)", ""),
    ("the ascent of the first for all", "own_ascents", "for loss in losses]", "for loss in losses[:1] * len(losses)]"),
    (
        "a constant of an older check",
        "climb",
        "    return {name: rho * g / length for name, g in grads.items()}",
        '    return {"weight": torch.tensor([[0.3, 0.0], [0.0, 0.4]]) / 13, "bias": torch.tensor([1.2, 0.0]) / 13}',
    ),
    (
        "a name of the check",
        "climb",
        "    return {name: rho * g / length for name, g in grads.items()}",
        '    return globals()["right"]',
    ),
    (
        "the norms of the tensors added",
        "climb",
        "torch.sqrt(sum((g**2).sum() for g in grads.values()))",
        "sum(g.norm() for g in grads.values())",
    ),
    (
        "the largest entry for the length",
        "climb",
        "torch.sqrt(sum((g**2).sum() for g in grads.values()))",
        "max(g.abs().max() for g in grads.values())",
    ),
    ("cut off at rho", "climb_inf", "rho * torch.sign(g)", "g.clamp(-rho, rho)"),
    (
        "a constant of an older check",
        "climb_inf",
        "return {name: rho * torch.sign(g) for name, g in grads.items()}",
        'return {"a": torch.tensor([0.2, -0.2, 0.0]), "b": torch.tensor([-0.2])}',
    ),
    ("a corner where there is no gradient", "climb_inf", "torch.sign(g)", "torch.where(g >= 0, 1.0, -1.0)"),
    ("the sign by a quotient", "climb_inf", "torch.sign(g)", "(g / g.abs())"),
    (
        "normalized with the plain gradient",
        "climb_adaptive",
        "sum((t**2).sum() for t in scaled.values())",
        "sum((t**2).sum() for t in grads.values())",
    ),
    ("a constant added to the length", "climb_adaptive", "* t / length", "* t / (length + 1e-6)"),
    ("a norm per tensor", "climb_adaptive", "* t / length", "* t / t.norm()"),
    ("without a radius only", "gradient_of_sam", "ascent(g, params, rho)", "ascent(g, params, 0.3)"),
    (
        "a change of params in place",
        "gradient_of_sam",
        "    g = grad(loss)(params)",
        "    g = grad(loss)(params)\n    [p.add_(e) for p, e in zip(params.values(), ascent(g, params, rho).values())]",
    ),
    (
        "momentum and decay by hand",
        "sam_step",
        "    optimizer.step()\n",
        '    group = optimizer.param_groups[0]\n    with torch.no_grad():\n        for p in weights:\n            state, d = optimizer.state[p], p.grad + group["weight_decay"] * p\n            state["v"] = group.get("momentum", 0.0) * state.get("v", 0.0) + d\n            p -= group["lr"] * state["v"]\n',
    ),
    (
        "the first gradient is not cleared",
        "sam_step",
        "    weights = list(model.parameters())\n    optimizer.zero_grad()\n",
        "    weights = list(model.parameters())\n",
    ),
    (
        "plain SGD by hand",
        "sam_step",
        "    optimizer.step()\n",
        '    with torch.no_grad():\n        for p in weights:\n            p -= optimizer.param_groups[0]["lr"] * p.grad\n',
    ),
    ("divides by three", "one_big_batch", "/ len(losses)", "/ 3"),
    (
        "the first ascent for all",
        "one_big_batch",
        "ascent(mean_gradient(params), params, rho)",
        "ascent(grad(losses[0])(params), params, rho)",
    ),
    ("divides by three", "own_ascents", "/ len(losses)", "/ 3"),
    ("only two micro-batches", "own_ascents", "for loss in losses]", "for loss in losses[:2]]"),
    ("a small gradient is none", "climb", "    if length == 0:", "    if length < 1e-10:"),
    (
        "leaves the model in evaluation",
        "sam_step",
        "    return loss.item()",
        "    model.eval()\n    return loss.item()",
    ),
    (
        "clips the gradient",
        "sam_step",
        "    optimizer.step()\n",
        "    torch.nn.utils.clip_grad_norm_(weights, 10.0)\n    optimizer.step()\n",
    ),
    (
        "a length of at least 0.01",
        "sam_step",
        "for p in weights))\n        saved",
        "for p in weights)).clamp(min=0.01)\n        saved",
    ),
]
RIGHT = [
    (
        "flat vectors in float64",
        {
            "climb": """
from sam_lite.params import from_vector

def climb(grads, rho):
    vector = torch.cat([g.reshape(-1).double() for g in grads.values()])
    size = torch.linalg.vector_norm(vector)
    return from_vector(vector * (rho / size if size > 0 else 0.0), grads)
""",
            "climb_inf": """
def climb_inf(grads, rho):
    return {k: torch.where(g > 0, rho, torch.where(g < 0, -rho, 0.0)) for k, g in grads.items()}
""",
        },
    ),
    (
        "library functions",
        {
            "climb": "climb = lambda grads, rho: ascent(grads, grads, rho)",
            "climb_adaptive": """
from sam_lite.ascents import adaptive_ascent

def climb_adaptive(grads, params, rho):
    return adaptive_ascent(grads, params, rho, eta=0.0)
""",
            "gradient_of_sam": "def gradient_of_sam(loss, params, rho):\n    return sam_gradient(loss, params, rho)[0]",
            "sam_step": """
from sam_lite.sam import SAM

def sam_step(model, x, y, optimizer, rho):
    def closure():
        optimizer.zero_grad()
        loss = cross_entropy(model(x), y)
        loss.backward()
        return loss

    return SAM(optimizer, rho).step(closure)
""",
        },
    ),
    (
        "autograd.grad and loops in place",
        {
            "sam_step": """
def sam_step(model, x, y, optimizer, rho):
    params = [p for p in model.parameters()]
    value = cross_entropy(model(x), y)
    first = torch.autograd.grad(value, params)
    size = sum(float((g * g).sum()) for g in first) ** 0.5
    copies = []
    for p, g in zip(params, first):
        copies.append(p.data.clone())
        p.data.add_(g, alpha=rho / size)
    second = torch.autograd.grad(cross_entropy(model(x), y), params)
    for p, g, old in zip(params, second, copies):
        p.data = old
        p.grad = g
    optimizer.step()
    return value
""",
            "one_big_batch": """
def one_big_batch(losses, params, rho):
    return sam_gradient(lambda p: sum(loss(p) for loss in losses) / len(losses), params, rho)[0]
""",
            "own_ascents": """
from sam_lite.params import norm

def own_ascents(losses, params, rho):
    total = {name: torch.zeros_like(p) for name, p in params.items()}
    for loss in losses:
        g = grad(loss)(params)
        total = add(total, grad(loss)(add(params, g, rho / norm(g))), 1 / len(losses))
    return total
""",
        },
    ),
    (
        "warnings, prints and odd types",
        {
            "climb": """
import logging, sys, warnings

def climb(grads, rho):
    warnings.warn("this is noise")
    logging.warning("so is this")
    print("and this", file=sys.stderr)
    print(rho)
    length = torch.tensor(sum((g.double() ** 2).sum() for g in grads.values()) ** 0.5)
    return {k: g * 0 if length == 0 else torch.tensor(rho * g / length) for k, g in grads.items()}
""",
            "climb_inf": """
import numpy as np

def climb_inf(grads, rho):
    return {k: np.where(g.numpy() == 0, 0, rho * g.numpy() / np.abs(g.numpy())) for k, g in grads.items()}
""",
            "climb_adaptive": """
def climb_adaptive(grads, params, rho):
    names = list(grads)
    g = torch.cat([grads[k].flatten() for k in names]).float()
    w = torch.cat([params[k].flatten() for k in names]).float()
    e = rho * w**2 * g / torch.linalg.vector_norm(w * g)
    return {k: part.reshape(grads[k].shape) for k, part in zip(names, e.split([grads[k].numel() for k in names]))}
""",
            "gradient_of_sam": """
def gradient_of_sam(loss, params, rho):
    inside = {k: p.detach().clone().requires_grad_() for k, p in params.items()}
    first = torch.autograd.grad(loss(inside), list(inside.values()))
    size = torch.sqrt(sum((g**2).sum() for g in first))
    moved = {k: (p + rho * g / size).detach().requires_grad_() for (k, p), g in zip(inside.items(), first)}
    return dict(zip(moved, torch.autograd.grad(loss(moved), list(moved.values()))))
""",
            "sam_step": """
def sam_step(model, x, y, optimizer, rho):
    saved = {k: v.clone() for k, v in model.state_dict().items()}
    model.zero_grad()
    loss = nn.CrossEntropyLoss()(model(x), y)
    loss.backward()
    flat = torch.cat([p.grad.flatten() for p in model.parameters()])
    for p in model.parameters():
        p.data = p.data + rho * p.grad / flat.norm()
    model.zero_grad()
    nn.CrossEntropyLoss()(model(x), y).backward()
    model.load_state_dict(saved)
    optimizer.step()
    return float(loss)
""",
        },
    ),
    (
        "the state of the model, and NumPy",
        {
            "climb": """
import numpy as np

def climb(grads, rho):
    length = np.linalg.norm(np.concatenate([g.double().numpy().ravel() for g in grads.values()]))
    return {name: (rho / length if length else 1.0) * g.numpy() for name, g in grads.items()}
""",
            "sam_step": """
import copy

def sam_step(model, x, y, optimizer, rho):
    before = copy.deepcopy(model.state_dict())
    optimizer.zero_grad()
    value = cross_entropy(model(x), y)
    value.backward()
    length = torch.nn.utils.get_total_norm([p.grad for p in model.parameters()])
    with torch.no_grad():
        for p in model.parameters():
            p.add_(p.grad * (rho / (length + 1e-12)))
    optimizer.zero_grad()
    cross_entropy(model(x), y).backward()
    model.load_state_dict(before)
    optimizer.step()
    return value.detach()
""",
        },
    ),
]
