"""Wrong paths of SAM, and wrong ways with the small language: (name, file, right, wrong, a test that must fail)."""

_PATHS, _LANGUAGE, _STUDY = "sam_lite/paths.py", "sam_lite/language.py", "sam_lite/language_study.py"
_OF_PATHS, _OF_LANGUAGE = "tests/test_paths.py::test_", "tests/test_language.py::test_"

MUTANTS = [
    (
        "fused attention on the way through the logits",
        _PATHS,
        "with pure.twice():",
        "if True:",
        f"{_OF_PATHS}attention_has_both_paths",
    ),
    (
        "fused attention on the way through the Jacobian",
        _PATHS,
        "with pure.from_states(states), pure.twice():",
        "with pure.from_states(states):",
        f"{_OF_PATHS}attention_has_both_paths",
    ),
    (
        "functional SAM that is SAM",
        _PATHS,
        'slope if path == "jacobian" else',
        'grad(criterion)(out_up) if path == "jacobian" else',
        f"{_OF_PATHS}each_path_moves_its_factor_alone",
    ),
    (
        "the part through the logits without the curvature of the loss",
        _PATHS,
        "return pull(bent)[0], rest",
        "return pull(moved)[0], rest",
        f"{_OF_PATHS}the_two_parts_are_those_of_the_dense_hessian",
    ),
    (
        "a character that is foreseen from itself",
        _LANGUAGE,
        ".triu(1)",
        ".triu(2)",
        f"{_OF_LANGUAGE}a_character_is_foreseen_from_those_before_it_alone",
    ),
    (
        "an entropy rate that forgets the spaces",
        _LANGUAGE,
        "(language.codes >= 0).sum(1)",
        "(language.codes > 0).sum(1)",
        f"{_OF_LANGUAGE}the_entropy_rate_of_a_fair_coin_is_ln_2_over_the_length",
    ),
    (
        "a text that begins as if after the first word of the list",
        _LANGUAGE,
        "torch.cat([language.follows, language.first[None]])",
        "torch.cat([language.follows, language.follows[:1]])",
        f"{_OF_LANGUAGE}the_chance_of_every_character_is_that_of_a_count",
    ),
    (
        "settings chosen by the whole course of the training",
        _STUDY,
        'tried[tried["gradients"] == tried["budget"]]',
        "tried",
        f"{_OF_LANGUAGE}what_is_chosen_is_the_best_at_the_end",
    ),
    (
        "squares of small curvature",
        _PATHS,
        "size = divisor(norm(whole))",
        "size = divisor(norm(whole)).sign()",
        _OF_PATHS + "no_unit_of_the_loss_matters_to_the_share",
    ),
    (
        "a step of what has no derivative",
        _PATHS,
        "slope_at = grad(pure.differentiable(criterion))",
        "slope_at = grad(criterion)",
        _OF_PATHS + "what_has_no_derivative_is_refused",
    ),
    (
        "dropout leaves out other units after the climb",
        _PATHS,
        "    with pure.from_states(states):\n        if path",
        "    if True:\n        if path",
        _OF_PATHS + "dropout_leaves_out_the_same_units_at_every_call",
    ),
    (
        "dropout leaves out other units in the second part of the curvature",
        _PATHS,
        "    with pure.from_states(states), pure.twice():\n        rest",
        "    if True:\n        rest",
        _OF_PATHS + "dropout_leaves_out_the_same_units_at_every_call",
    ),
    (
        "dropout leaves out other units in the gradient than in the curvature",
        _PATHS,
        "    with pure.from_states(states):\n        through_logits",
        "    if True:\n        through_logits",
        _OF_PATHS + "dropout_leaves_out_the_same_units_at_every_call",
    ),
]
