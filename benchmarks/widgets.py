"""From key press to new picture: python benchmarks/widgets.py [presses]

Every widget in JupyterLab before a headless Chromium, beside the plain version of the same picture: `interact`, which
draws the figure as a whole and shows it. In the page's own clock, from the keydown to the frame after the new image was
decoded. Both versions get the same keys, in turn blocks of ten. Then five times as many presses on one widget, and
what is left of them: figures, comms and memory of the kernel, and memory of the page. At last the explorers on a page
without a kernel, from the keydown to the frame after the first mark moved.
"""

import gzip
import sys
import tempfile
from pathlib import Path

import numpy as np

sys.path.append(str(Path(__file__).parent.parent / "tools"))
import browser
import pages

NAMES = {
    "flat and sharp (01)": ("explore_toys.flat_explorer", "ArrowRight", "ArrowLeft"),
    "batch size (02, 03)": ("explore_networks.batch_explorer", "ArrowLeft", "ArrowRight"),
    "measures (04)": ("explore_measures.measure_explorer", "ArrowRight", "ArrowLeft"),
    "SAM step (05)": ("explore_toys.step_explorer", "ArrowRight", "ArrowLeft"),
    "ρ on a network (06)": ("explore_networks.rho_explorer", "ArrowRight", "ArrowLeft"),
    "photographs (06)": ("explore_images.images_explorer", "ArrowRight", "ArrowLeft"),
    "bouncing (08)": ("explore_toys.bouncing_explorer", "ArrowRight", "ArrowLeft"),
}
OURS = "from sam_lite import explore_images, explore_measures, explore_networks, explore_toys\n{}();"
PLAIN = """import ipywidgets
from sam_lite import explore_measures, explore_networks, explore_toys, widgets
from IPython.display import display

def plain(picture, controls, **_):
    for artist in picture.moving:
        artist.set_animated(False)
    def show(**values):
        picture.update(**values)
        display(picture.figure)  # what plt.show() does in a notebook
    ipywidgets.interact(show, **{{name: widgets._slider(control) for name, control in controls.items()}})

for module in (explore_measures, explore_networks, explore_toys):
    module.explorer = plain
{}();"""
LEFT = """import gc, psutil, ipywidgets
from matplotlib.figure import Figure
gc.collect()
figures = sum(isinstance(o, Figure) for o in gc.get_objects())
print("LEFT", figures, len(get_ipython().kernel.comm_manager.comms), psutil.Process().memory_info().rss)"""
WATCH = """selector => {
    window.waits = [];
    let pressed = null, seen = document.querySelector(selector).src;
    document.addEventListener('keydown', () => { pressed = performance.now(); }, true);
    new MutationObserver(() => {
        const image = document.querySelector(selector);
        if (pressed === null || !image || image.src === seen) return;
        const start = pressed;
        [seen, pressed] = [image.src, null];
        image.decode().then(() => requestAnimationFrame(() => window.waits.push(performance.now() - start)));
    }).observe(document.body, {subtree: true, childList: true, attributes: true, attributeFilter: ['src']});
}"""


WATCH_PAGE = """() => {
    window.waits = [];
    let pressed = null;
    document.addEventListener('keydown', () => { pressed = performance.now(); }, true);
    new MutationObserver(() => {
        if (pressed === null) return;
        const start = pressed;
        pressed = null;
        requestAnimationFrame(() => window.waits.push(performance.now() - start));
    }).observe(document.querySelector('.panels'), {subtree: true, childList: true, attributes: true});
}"""


def opened(chrome, address: str, folder: Path, source: str, selector: str):
    """A page with this widget, its first control in focus, and the clock running."""
    name = f"{len(list(folder.glob('*.ipynb')))}.ipynb"  # a file of its own has a kernel of its own
    browser.write(folder / name, source, LEFT)
    page = browser.notebook(chrome, address, name)
    browser.run_cell(page)
    page.locator(selector).first.wait_for()
    page.evaluate(WATCH, selector)
    return page


def presses(page, keys: tuple[str, str], times: int) -> list[float]:
    """Milliseconds of each press, there and back."""
    page.locator(".widget-box, .widget-interact").first.locator("[role=slider]").first.focus()
    before = page.evaluate("waits.length")
    for i in range(times):
        page.keyboard.press(keys[i % 2])
        page.wait_for_function("n => waits.length > n", arg=before + i)
        page.wait_for_timeout(20)
    return page.evaluate("waits")[before:]


def on_a_page(chrome, folder: Path, name: str, times: int) -> list[float]:
    """Milliseconds of each press on the first slider of an explorer that moves without a kernel."""
    path = folder / f"{name}.html"
    path.write_text(pages.page(name, pages.moving(name)), encoding="utf-8")
    page = chrome.new_page()
    page.goto(path.as_uri())
    page.locator("figure.live.ready").wait_for()
    page.evaluate(WATCH_PAGE)
    page.get_by_role("slider").first.focus()
    for i in range(times):
        page.keyboard.press(("ArrowLeft", "ArrowRight")[i % 2])
        page.wait_for_function("n => waits.length > n", arg=i)
        page.wait_for_timeout(20)
    waits = page.evaluate("waits")
    page.close()
    return waits


def left(page) -> list[float]:
    """Figures, comms and MiB of the kernel, and MiB of the page."""
    browser.run_cell(page, 1)
    said = page.locator(".jp-OutputArea-output pre", has_text="LEFT").last.text_content().split()[1:]
    session = page.context.new_cdp_session(page)
    session.send("HeapProfiler.collectGarbage")
    heap = session.send("Runtime.getHeapUsage")["usedSize"]
    return [int(said[0]), int(said[1]), int(said[2]) / 2**20, heap / 2**20]


def main(times: int = 200) -> None:
    folder = Path(tempfile.mkdtemp())
    with browser.jupyter(folder) as address, browser.chromium() as chrome:
        print(f"{times} presses each | median ms | 95th percentile ms | interact, median ms | times as fast")
        for name, (call, *keys) in NAMES.items():
            contenders = (OURS, ".widget-html img"), (PLAIN, ".widget-output img, .jupyter-widgets-output-area img")
            pages = [opened(chrome, address, folder, source.format(call), image) for source, image in contenders]
            waits = [[], []]
            for _ in range(times // 10):
                for page, found in zip(pages, waits, strict=True):
                    page.bring_to_front()
                    found += presses(page, keys, 10)
            ours, plain = (np.array(found) for found in waits)
            print(
                f"{name} | {np.median(ours):.0f} | {np.quantile(ours, 0.95):.0f} | {np.median(plain):.0f} | "
                f"{np.median(plain) / np.median(ours):.1f}",
                flush=True,
            )
            for page in pages:
                page.close()
        call, *keys = NAMES["SAM step (05)"]
        page = opened(chrome, address, folder, OURS.format(call), ".widget-html img")
        presses(page, keys, 10)
        before = left(page)
        presses(page, keys, 5 * times)
        for what, a, b in zip(
            ("figures", "comms", "MiB of the kernel", "MiB of the page"), before, left(page), strict=True
        ):
            print(f"{what} before and after {5 * times} presses: {a:.4g} and {b:.4g}")
        print("on a page without a kernel | median ms | 95th percentile ms | kB, packed")
        for path in sorted(pages.LIVE.glob("*.html")):
            waits = np.array(on_a_page(chrome, folder, path.stem, times))
            size = len(gzip.compress(path.read_bytes())) / 1000
            print(f"{path.stem} | {np.median(waits):.0f} | {np.quantile(waits, 0.95):.0f} | {size:.0f}", flush=True)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
