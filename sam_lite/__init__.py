"""Flat minima and Sharpness-Aware Minimization, small enough to be read in an hour.

Two types carry everything (`params`): a model is `Params = dict[str, Tensor]`, and a `Loss` is a function of it. A loss
needs no data and no network, so the smallest example is a valley:

>>> import torch
>>> from sam_lite.hessian import top_eigenvalues
>>> from sam_lite.sam import sam_gradient
>>> from sam_lite.sharpness import worst_sharpness
>>> valley = lambda p: (p["w"] ** 2 * torch.tensor([1.0, 10.0])).sum() / 2
>>> w = {"w": torch.tensor([3.0, 0.0])}
>>> sam_gradient(valley, w, rho=0.05)[0]["w"]  # the gradient a step of 0.05 uphill: at (3.05, 0)
tensor([3.0500, 0.0000])
>>> round(top_eigenvalues(valley, w).values[0].item(), 4)
10.0
>>> bottom = {"w": torch.zeros(2)}
>>> round(worst_sharpness(valley, bottom, 0.1).value.item(), 4)  # 0.1 squared times 10 / 2
0.05

The method, to be read in this order (an hour):

    params      a model as a dict of tensors, the loss as a function of it
    ascents     up: the worst step in a ball, for every shape of the ball
    sam         down: SAM's gradient as a function, and SAM as an optimizer
    noise       random vectors as an argument
    lanczos     a symmetric matrix, seen through its products
    hessian     Hessian-vector products, eigenvalues, trace, spectrum
    climb       the search for the highest point of a ball or a box
    sharpness   the kinds of sharpness

What lectures and exercises use besides:

    data, models          MNIST-1D, digits, Fashion-MNIST; networks
    train, ensemble       one model with any optimizer; many models side by side
    landscape             the loss along lines and on planes
    batchnorm             running statistics: between two networks, and under SAM
    toys                  SAM's dynamics where they can be solved
    rivals, contest       what else could explain SAM's gain; all of it on equal terms
    paths, language       SAM through the Jacobian or the logits alone; a small transformer and its text
    measures, ranking     what may predict generalization, and how well it ranks
    claims, plots         verdicts with their bounds; figures with captions
    explore_*             widgets for ρ, batch size and more

Machinery, which nobody needs to read: require, pure, callbacks, plan, starting, stacked, updates, describe, checkpoint,
tables, sweep, cluster, study, image_network, image_study, contest_images, language_study, grids, images, widgets, checks.

Functions take `loss, params, size`, then what the method needs, then settings by name. Randomness is an argument.
Everything maps over many models with `torch.func.vmap`, and computes where its tensors are.
"""

__version__ = "0.2.0"
