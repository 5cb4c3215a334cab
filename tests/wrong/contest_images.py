"""Wrong ways to let rivals compete on photographs: (name, file, right, wrong, a test that must fail)."""

_IMAGES, _CONTEST, _STUDY = (f"sam_lite/{name}.py" for name in ("contest_images", "contest", "image_study"))
_TEST = "tests/test_contest_images.py::test_"
_JUDGED = f"{_TEST}settings_are_judged_on_held_out_images_and_networks_on_the_test"
_LOOP = f"{_TEST}a_network_is_what_a_plain_loop_gives"

MUTANTS = [
    (
        "settings judged on images that were learned from",
        _STUDY,
        "slice(N_TRAIN, N_TRAIN + N_HELD_OUT)",
        "slice(0, N_HELD_OUT)",
        _JUDGED,
    ),
    (
        "settings chosen by the test images",
        _IMAGES,
        'one_of("part", part, PARTS) == "tuning"',
        'one_of("part", part, PARTS) not in PARTS',
        _JUDGED,
    ),
    (
        "the held-out images learned, too",
        _STUDY,
        "Data(data.x_train[:N_TRAIN], data.y_train[:N_TRAIN], *judges)",
        "Data(data.x_train, data.y_train, *judges)",
        _JUDGED,
    ),
    (
        "photographs in the batches of the small data",
        _IMAGES,
        '{"batch_size": SMALL, "steps": steps} | given',
        '{"steps": steps} | given',
        _LOOP,
    ),
    (
        "a rival that averages, without its average",
        _IMAGES,
        'given.get("after", rivals.newest)(fast, slow, step)',
        "rivals.newest(fast, slow, step)",
        _LOOP,
    ),
    (
        "a first look that is the last",
        _IMAGES,
        "if step == EARLY:",
        "if step >= EARLY:",
        _LOOP,
    ),
    (
        "every network begins with the same weights",
        _IMAGES,
        "build(convnet, seed)) for seed in seeds",
        "build(convnet, seeds[0])) for seed in seeds",
        f"{_TEST}networks_begin_where_their_seeds_say_and_leave_the_global_generator_alone",
    ),
    (
        "the setting of one lucky network chosen",
        _IMAGES,
        '["accuracy"].mean().groupby("rival")',
        '["accuracy"].max().groupby("rival")',
        f"{_TEST}the_best_mean_on_held_out_images_is_chosen",
    ),
    (
        "the chosen SGD as its own opponent",
        _IMAGES,
        '(job["lr"], job["setting"]) != settings["SGD"]',
        '(job["lr"], job["setting"]) == settings["SGD"]',
        f"{_TEST}the_command_tries_all_then_trains_with_what_was_chosen_and_goes_on",
    ),
    (
        "twice the steps that are as many",
        _CONTEST,
        '"steps": 2 * steps',
        '"steps": steps',
        "tests/test_rivals.py::test_the_gradients_of_a_step_are_counted_for_every_rival",
    ),
    (
        "a record that is kept and lent",
        "sam_lite/contest_images.py",
        "def recorded()",
        "from functools import cache\n@cache\ndef recorded()",
        "tests/test_contest_images.py::test_what_is_done_to_the_record_is_not_done_to_the_next",
    ),
]
