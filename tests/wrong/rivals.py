"""Wrong rivals of SAM: (name, file, right, wrong, a test that must fail)."""

_RIVALS, _TEST = "sam_lite/rivals.py", "tests/test_rivals.py::test_"

MUTANTS = [
    (
        "swa counts the first weights twice",
        _RIVALS,
        "torch.lerp(s, fast[name], 1 / n)",
        "torch.lerp(s, fast[name], 1 / (n + 1))",
        f"{_TEST}swa_is_the_mean_of_what_it_names",
    ),
    (
        "ema with its two shares swapped",
        _RIVALS,
        "torch.lerp(fast[name], s, decay)",
        "torch.lerp(s, fast[name], decay)",
        f"{_TEST}ema_is_that_of_torch",
    ),
    (
        "lookahead forgets to go back",
        _RIVALS,
        "return slow, slow",
        "return fast, slow",
        f"{_TEST}lookahead_is_its_algorithm",
    ),
    (
        "the mixture the wrong way round",
        _RIVALS,
        "torch.lerp(g[name], up[name], mix)",
        "torch.lerp(up[name], g[name], mix)",
        f"{_TEST}the_mixture_is_the_penalty_to_first_order",
    ),
    (
        "a layer's climb as a distance",
        _RIVALS,
        "params, rho * torch.linalg.vector_norm(params[name])",
        "params, rho",
        f"{_TEST}a_layers_climb_is_a_share_of_its_norm",
    ),
    (
        "noise of one length for all networks together",
        _RIVALS,
        "e = vmap(lambda g: ascent(g, g, rho))(drawn)",
        "e = ascent(drawn, drawn, rho)",
        f"{_TEST}noise_looks_at_a_distance_rho",
    ),
    (
        "a second gradient that nobody counts",
        _RIVALS,
        "calls, found = calls + 1,",
        "calls, found = max(calls, 1),",
        f"{_TEST}sam_is_the_optimizer_of_the_package",
    ),
    (
        "noise goes on where the last descent ended",
        _RIVALS,
        "dice.manual_seed(seed)\n        last",
        "dice.manual_seed(seed) if last == math.inf else None\n        last",
        f"{_TEST}a_direction_that_draws_gives_the_same_descent_each_time",
    ),
    (
        "the same noise for two calls in a step",
        _RIVALS,
        "(step == last and gradient is not caller)",
        "step == last",
        f"{_TEST}noise_is_drawn_anew_in_every_call_of_a_descent",
    ),
    (
        "frozen layers end in a KeyError",
        _RIVALS,
        "if frozen := sorted(params.keys() - found.keys()):",
        "if False:",
        f"{_TEST}frozen_layers_and_negative_rates_are_named",
    ),
    (
        "a schedule turns a descent into an ascent",
        _RIVALS,
        'require.number("what schedule returns", factor, least=0)',
        "pass",
        f"{_TEST}frozen_layers_and_negative_rates_are_named",
    ),
    (
        "a negative weight decay lets weights grow",
        _RIVALS,
        'require.number("weight_decay", weight_decay, least=0)',
        "pass",
        f"{_TEST}settings_out_of_bounds_are_named",
    ),
    (
        "the start in the answer's memory",
        "sam_lite/rivals.py",
        "p.detach().clone()",
        "p.detach()",
        "tests/test_rivals.py::test_the_start_is_no_part_of_the_answer",
    ),
]
