"""tools/front.py: the bounce on the first page is SAM's, and a small picture stays one."""

import base64
import io

import numpy as np
import pytest
import torch
from nbformat.v4 import new_code_cell, new_notebook, new_output
from PIL import Image

import front
import live
import notebooks
from sam_lite.sam import sam_gradient


def ravine(params):
    z, w = params["x"]
    return (1 + z**2) * w**2 / 4


@pytest.mark.parametrize("rho", front.RHOS)
def test_the_balls_go_where_sam_goes(rho):
    path = front.path_in_ravine(rho, steps=20)
    x = torch.tensor(front.START, dtype=torch.float64)
    for point in path[1:]:
        gradient = sam_gradient(ravine, {"x": x}, rho)[0] if rho else torch.func.grad(ravine)({"x": x})
        x = x - front.RATE * gradient["x"]
        np.testing.assert_allclose(point, x, atol=1e-12)


def test_sam_ends_where_the_valley_is_wider_and_descent_does_not():
    widths = [abs(front.path_in_ravine(rho)[-1][0]) for rho in front.RHOS]
    assert widths[0] > 0.95 * front.START[0] and widths == sorted(widths, reverse=True) and widths[-1] < 0.5


def test_the_stored_picture_says_so_in_every_state():
    found = live.unpack((live.FOLDER / "valley.html").read_text(encoding="utf-8"))
    assert found["shape"] == [len(front.RHOS), front.STEPS + 1]
    for i, rho in enumerate(front.RHOS):
        for step in (0, 1, 17, front.STEPS):
            sam, descent = ((1 + front.path_in_ravine(r)[step][0] ** 2) / 2 for r in (rho, 0.0))
            said = live.said(found, [i, step])
            assert f"radius {rho:g} is at {sam:.2f}" in said and f"curvature of {descent:.2f}" in said


def test_the_story_has_a_line_for_every_lecture():
    assert {path.stem for path in notebooks.lectures()} == set(front.IDEAS)


def test_the_first_picture_of_a_lecture_is_made_small():
    buffer = io.BytesIO()
    Image.new("RGB", (1920, 800), "white").save(buffer, "PNG")
    data = {"image/png": base64.b64encode(buffer.getvalue()).decode()}
    cells = [new_code_cell("x"), new_code_cell("y", outputs=[new_output("display_data", data)])]
    small = Image.open(io.BytesIO(base64.b64decode(front.first_picture(new_notebook(cells=cells)).split(",")[1])))
    assert small.size == (480, 200) and front.first_picture(new_notebook(cells=cells[:1])) == ""
