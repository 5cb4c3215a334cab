"""Widgets in a real browser: Chromium before JupyterLab and Notebook 7, driven as a student drives them."""

import re

import pytest

import browser

pytestmark = pytest.mark.slow
STEP = "from sam_lite import explore_toys\n_ = explore_toys.step_explorer()"
BATCH = "from sam_lite import explore_networks\nexplore_networks.batch_explorer();"
PICTURE, TWIN = ".widget-html img", ".jp-RenderedImage img"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("lab")


@pytest.fixture(scope="module")
def lab(folder, chrome):
    with browser.jupyter(folder) as address:
        yield lambda name: browser.notebook(chrome, address, name)


@pytest.fixture
def opened(lab, folder, request):
    """A notebook with these cells in JupyterLab: opened(*sources) gives its page."""
    pages = []

    def opened(*sources):
        name = f"{re.sub(r'[^a-z_]', '', request.node.name)}.ipynb"
        if sources:
            browser.write(folder / name, *sources)
        pages.append(lab(name))
        return pages[-1]

    yield opened
    for page in pages:
        page.close()


def tab_to(page, selector):
    """Press Tab until the focus is on such an element."""
    for _ in range(60):
        page.keyboard.press("Tab")
        if page.evaluate("selector => document.activeElement.matches(selector)", selector):
            return
    raise AssertionError(f"Tab does not reach <{selector}>")


def alt(page, number=0):
    return page.locator(PICTURE).nth(number).get_attribute("alt")


def other_than(page, before, number=0):
    """Wait for another alternative text than this, and return it."""
    page.wait_for_function(
        "([selector, i, before]) => document.querySelectorAll(selector)[i]?.alt !== before",
        arg=[PICTURE, number, before],
    )
    return alt(page, number)


def test_by_keyboard_alone_and_slider_and_number_box_agree(opened):
    page = opened(STEP)
    prompt = page.locator(".jp-Notebook .jp-Cell .jp-InputPrompt").first
    for _ in range(5):  # again, as one would, where the page was not yet listening
        page.locator(".jp-Notebook .jp-Cell").first.focus()
        page.keyboard.press("Shift+Enter")
        page.wait_for_timeout(2000)
        if re.search(r"[*\d]", prompt.inner_text()):
            break
    browser.idle(page)
    page.locator(PICTURE).wait_for()
    before = alt(page)
    assert "climbs by 0.3 " in before
    page.keyboard.press("Escape")
    tab_to(page, "[role=slider]")
    page.keyboard.press("ArrowRight")
    assert "climbs by 0.31 " in other_than(page, before)
    page.wait_for_function(
        "() => document.querySelector('input[type=number]').value === '0.31'"
    )  # sent after the picture

    tab_to(page, "input[type=number]")
    for typed, shown in (("0.5", "0.5"), ("99", "1"), ("-3", "0"), ("abc", "0"), ("0.25", "0.25")):
        page.keyboard.press("Control+a")
        page.keyboard.type(typed)
        page.keyboard.press("Enter")
        page.locator(f"[role=slider][aria-valuetext='{shown}']").first.wait_for()
        page.wait_for_function("v => document.activeElement.value === v", arg=shown)
        page.wait_for_function(f"() => document.querySelector('{PICTURE}').alt.includes('climbs by {shown} ')")


def test_the_still_picture_gives_way_to_the_widget_and_comes_back_without_it(opened):
    page = opened(STEP.replace("_ =", "widget ="), "widget.close()")
    browser.run_cell(page, 0)
    page.locator(PICTURE).wait_for()
    assert page.locator(TWIN).count() == 1 and not page.locator(TWIN).is_visible()
    browser.run_cell(page, 1)
    page.locator(TWIN).wait_for()
    assert page.locator(PICTURE).count() == 0


def test_two_copies_move_independently(opened):
    page = opened(STEP, STEP)
    browser.run_cell(page, 0)
    browser.run_cell(page, 1)
    page.locator(PICTURE).nth(1).wait_for()
    first, second = alt(page, 0), alt(page, 1)
    assert first == second
    page.get_by_role("slider").nth(5).focus()
    page.keyboard.press("ArrowLeft")
    assert "climbs by 0.29 " in other_than(page, second, 1)
    assert alt(page, 0) == first


def pressed_train(page):
    page.get_by_role("button", name="Train", exact=True).focus()
    page.keyboard.press("Enter")
    page.keyboard.press("Enter")  # twice
    page.get_by_text("Training …").wait_for()
    page.wait_for_function("() => parseFloat(document.querySelector('.progress-bar').style.width) > 0")


def test_stop_is_heard_and_the_kernel_is_usable(opened):
    page = opened(BATCH, "print('still', 'here')")
    browser.run_cell(page, 0)
    page.locator(PICTURE).wait_for()
    before = alt(page)
    pressed_train(page)
    page.get_by_role("slider").first.focus()  # the other controls go on working
    page.keyboard.press("ArrowLeft")
    assert "Batch size 256" in other_than(page, before)
    page.get_by_role("button", name="Stop", exact=True).click()
    page.get_by_text("Stopped; nothing was added.").wait_for()
    assert "0 settings trained live" in alt(page)
    browser.run_cell(page, 1)
    page.get_by_text("still here", exact=True).wait_for()
    page.get_by_role("button", name="Train", exact=True).click()
    page.get_by_text("Training …").wait_for()


def test_a_kernel_restarted_while_it_trains_and_the_cell_run_again(opened):
    page = opened(BATCH)
    browser.run_cell(page)
    page.locator(PICTURE).wait_for()
    pressed_train(page)
    page.get_by_role("menuitem", name="Kernel", exact=True).click()
    page.locator(".lm-Menu-item[data-command='kernelmenu:restart']").click()
    page.get_by_role("button", name="Confirm Kernel Restart").click()
    browser.idle(page)
    assert page.locator(TWIN).is_visible() and not page.locator(PICTURE).is_visible()
    browser.run_cell(page)
    page.locator(PICTURE).wait_for()
    before = alt(page)
    page.get_by_role("slider").first.focus()
    page.keyboard.press("ArrowLeft")
    assert "Batch size 256" in other_than(page, before)
    pressed_train(page)


def test_opened_again_without_its_kernel_the_page_shows_the_twin(opened):
    page = opened(STEP)
    browser.run_cell(page)
    page.locator(PICTURE).wait_for()
    page.keyboard.press("Control+s")
    page.locator(".jp-mod-dirty").wait_for(state="detached")
    page.get_by_role("menuitem", name="Kernel", exact=True).click()
    page.get_by_role("menuitem", name="Shut Down Kernel", exact=True).click()
    page.wait_for_timeout(500)
    page.close()
    page = opened()
    page.locator(TWIN).wait_for()
    assert page.locator(TWIN).evaluate("image => image.naturalWidth") > 500 and page.locator(PICTURE).count() == 0


@pytest.mark.xdist_group("notebook_7")
def test_in_notebook_7(folder, chrome):
    browser.write(folder / "seven.ipynb", STEP)
    with browser.jupyter(folder, "notebook") as address:
        page = browser.notebook(chrome, address, "seven.ipynb", "notebook")
        browser.run_cell(page)
        page.locator(PICTURE).wait_for()
        before = alt(page)
        page.get_by_role("slider").first.focus()
        page.keyboard.press("PageUp")  # Notebook 7 keeps the arrow keys to itself
        assert "climbs by 0.35 " in other_than(page, before)
        page.close()
