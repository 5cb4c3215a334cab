"""Wrong studies of real images: (name, file, right, wrong, a test that must fail)."""

_STUDY, _NETWORK, _DATA = "sam_lite/image_study.py", "sam_lite/image_network.py", "sam_lite/data.py"
_T = "tests/test_image_study.py::test_"

MUTANTS = [
    (
        "held out from what was trained on",
        _STUDY,
        "slice(N_TRAIN, N_TRAIN + N_HELD_OUT)",
        "slice(N_HELD_OUT)",
        _T + "the_held_out_images_are_training_images_and_no_others",
    ),
    (
        "the setting of the best seed",
        _STUDY,
        '["held_out_acc"].mean()',
        '["held_out_acc"].max()',
        _T + "the_best_mean_on_held_out_images_is_chosen",
    ),
    (
        "a wrong label that may be the right one",
        _DATA,
        "torch.randint(1, 10,",
        "torch.randint(0, 10,",
        _T + "labels_are_wrong_in_exactly_the_share_that_is_asked_for",
    ),
    (
        "equal loss at the last look",
        _NETWORK,
        "int(low.iloc[0])",
        "int(low.iloc[-1])",
        _T + "moments_are_the_first_low_losses_equal_epochs_and_the_end",
    ),
    (
        "a line from large to small batches",
        _NETWORK,
        "of(add(start, span, alpha))",
        "of(add(start, span, 1 - alpha))",
        _T + "the_line_ends_in_the_two_networks",
    ),
    (
        "no warm-up",
        _NETWORK,
        "min(1.0, (step + 1) / WARM_UP)",
        "1.0",
        _T + "a_network_is_what_a_loop_by_hand_gives",
    ),
    (
        "weight decay under SAM as strong as its rho",
        _NETWORK,
        'decay = 0.0 if method == "sam" else strength',
        "decay = strength",
        _T + "optimizers_are_what_they_are_called",
    ),
    (
        "half of the images taken for the whole",
        _STUDY,
        "!= (60_000, 10_000)",
        "> (60_000, 10_000)",
        _T + "photographs_that_are_missing_or_damaged_are_named",
    ),
    (
        "SGD with half the gradients of SAM",
        _STUDY,
        '"sgd": Arm("sgd", 2)',
        '"sgd": Arm("sgd", 1)',
        _T + "the_arms_are_what_was_announced",
    ),
    (
        "settings of two norms in one mean",
        _STUDY,
        'if "norm" in tuning and',
        'if "norms" in tuning and',
        _T + "the_best_of_several_norms_together_is_refused",
    ),
    (
        "the study's own images lent",
        _STUDY,
        "part.clone() for part in used",
        "part for part in used",
        _T + "what_is_done_to_the_images_is_not_done_to_the_study",
    ),
    (
        "seeds that count twice",
        _STUDY,
        'if not moment.startswith("line") and',
        "if not moment and",
        _T + "a_network_that_is_there_twice_is_refused",
    ),
]
