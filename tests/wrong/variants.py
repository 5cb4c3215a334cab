"""Wrong numbers of a student's own, and private cases that do not run: (name, file, right, wrong, a test that must fail)."""

_VARIANTS, _TEST = "sam_lite/checks/variants.py", "tests/test_variants.py::test_"
_RESULT = f"{_TEST}a_result_is_what_something_else_computes_from_the_printed_numbers"
_ONE_NAME = f"{_TEST}one_name_gives_one_question_however_it_is_written"

MUTANTS = [
    (
        "numbers that another process would draw otherwise",
        _VARIANTS,
        'int.from_bytes(digest, "big")',
        "hash(name)",
        f"{_TEST}questions_do_not_depend_on_the_process",
    ),
    ("the order of a name counts", _VARIANTS, "return sorted(", "return list(", _ONE_NAME),
    ("capitals of a name count", _VARIANTS, ".casefold()", "", _ONE_NAME),
    ("accents of a name count", _VARIANTS, "if not unicodedata.combining(one)", "", _ONE_NAME),
    (
        "the name does not count",
        _VARIANTS,
        "[exercise, *words(name)]",
        "[exercise]",
        f"{_TEST}names_spread_over_all_questions",
    ),
    (
        "the student sees the result",
        _VARIANTS,
        "print(own.asked if own",
        "print(own.asked + own.right if own",
        f"{_TEST}a_student_sees_numbers_and_no_result",
    ),
    (
        "the shift without the half",
        _VARIANTS,
        "(2 * along + wide * across) / 200",
        "(2 * along + wide * across) / 100",
        f"{_RESULT}[01_flat_minima]",
    ),
    (
        "a large batch sees the curvature of a small one",
        _VARIANTS,
        "[steep / small, steep / large]",
        "[steep / small, steep / small]",
        f"{_RESULT}[02_keskar]",
    ),
    ("the square-root rule without the root", _VARIANTS, "rate * round(k**0.5)", "rate * k", f"{_RESULT}[03_hoffer]"),
    (
        "ψ along the other hyper-parameter",
        _VARIANTS,
        "Fraction(signs[0] + signs[5], 2)",
        "Fraction(signs[1] + signs[4], 2)",
        f"{_RESULT}[04_jiang]",
    ),
    (
        "ε of GPUs and parts added",
        _VARIANTS,
        "(1, gpus, parts, parts * gpus)",
        "(1, gpus, parts, parts + gpus)",
        f"{_RESULT}[05_sam]",
    ),
    (
        "a climb that costs two gradients more",
        _VARIANTS,
        "(epochs + times, 2 * epochs)",
        "(epochs + 2 * times, 2 * epochs)",
        f"{_RESULT}[06_sam_results]",
    ),
    (
        "the mean without the zeros",
        _VARIANTS,
        "mean = sum(eigenvalues) // len(eigenvalues)",
        "mean = sum(eigenvalues) / 3",
        f"{_RESULT}[07_three_sharpnesses]",
    ),
    (
        "the width for the amplitude",
        _VARIANTS,
        "rho * product / (2 - product)",
        "2 * rho * product / (2 - product)",
        f"{_RESULT}[08_bouncing]",
    ),
    (
        "a batch at the very edge",
        _VARIANTS,
        "if -1 in factors:",
        "if -1 not in factors:",
        f"{_TEST}questions_differ_in_their_verdicts",
    ),
    (
        "half of a complex number",
        "sam_lite/checks/__init__.py",
        "if not np.allclose(value.imag, 0,",
        "if np.allclose(value.real, np.inf,",
        "tests/test_checks.py::test_a_wrong_answer_is_described",
    ),
    (
        "private cases are passed over where their folder is not found",
        "sam_lite/checks/__init__.py",
        "if not path.parent.is_dir():",
        "if False:",
        "tests/test_checks.py::test_a_case_of_the_instructor_counts_and_is_not_shown",
    ),
]
