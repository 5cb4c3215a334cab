"""sam_lite/language.py and language_study.py: chances against counts, networks against a plain loop, a sample made again."""

import importlib
import itertools
import math
import sys
from functools import partial

import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from test_imports import made_by

from sam_lite import language, language_study
from sam_lite.language import Transformer
from sam_lite.models import build
from sam_lite.sam import SAM


@pytest.fixture(scope="module")
def small():
    """A language of five words over three letters, two of which may follow each."""
    return language.grammar(3, n_words=5, n_letters=3, n_next=2)


def draws(seed=0):
    return torch.Generator().manual_seed(seed)


def words_of(grammar):
    return ["".join(" abc"[c] for c in row if c >= 0) for row in grammar.codes.tolist()]


def test_a_grammar_is_what_it_says(small):
    words = words_of(small)
    assert len(set(words)) == 5 and all(4 <= len(word) <= 7 and word.index(" ") == len(word) - 1 for word in words)
    torch.testing.assert_close(small.follows.sum(1), torch.ones(5).double())
    assert ((small.follows > 0).sum(1) == 2).all() and all(small.follows[u, (u + 1) % 5] > 0 for u in range(5))
    torch.testing.assert_close(small.first @ torch.linalg.matrix_power(small.follows, 7), small.first)
    again = language.grammar(3, n_words=5, n_letters=3, n_next=2)
    assert torch.equal(again.follows, small.follows) and torch.equal(again.codes, small.codes)
    assert not torch.equal(language.grammar(4, 5, 3, 2).follows, small.follows)


def test_the_entropy_rate_of_a_fair_coin_is_ln_2_over_the_length():
    """Two words of equal length, each as likely after each: one bit for every four characters."""
    codes = torch.tensor([[1, 1, 1, 0], [2, 2, 2, 0]])
    coin = language.Grammar(codes, torch.full((2, 2), 0.5).double(), torch.full((2,), 0.5).double())
    assert language.entropy_rate(coin) == pytest.approx(math.log(2) / 4)


def test_the_chance_of_every_character_is_that_of_a_count(small):
    """Among all rows of words that are long enough, by hand: those that begin like the text, with one character more or less."""
    length, words = 9, words_of(small)
    mass = dict.fromkeys([""], 1.0)
    chains = itertools.product(range(5), repeat=3)  # three words have twelve characters at least
    for chain in chains:
        chance = float(small.first[chain[0]])
        for u, v in itertools.pairwise(chain):
            chance *= float(small.follows[u, v])
        spoken = "".join(words[w] for w in chain)
        for j in range(1, length + 1):
            mass[spoken[:j]] = mass.get(spoken[:j], 0.0) + chance
    lines, surprise = language.texts(small, 20, length, draws())
    for line, found in zip(lines.tolist(), surprise.tolist(), strict=True):
        spoken = "".join(" abc"[c] for c in line)
        expected = [math.log(mass[spoken[:j]] / mass[spoken[: j + 1]]) for j in range(length)]
        assert found == pytest.approx(expected, abs=1e-9)


def test_long_texts_have_the_entropy_rate_and_the_counts_of_the_chain(small):
    lines, surprise = language.texts(small, 400, 400, draws())
    assert lines.shape == surprise.shape == (400, 400) and lines.min() == 0 and lines.max() == 3
    sigma = surprise[:, 40:].mean(1).std() / 20
    assert surprise[:, 40:].mean().item() == pytest.approx(language.entropy_rate(small), abs=4 * sigma.item())
    counts = torch.zeros(5, 5, dtype=torch.float64)
    names = words_of(small)
    for line in lines.tolist():
        spoken = "".join(" abc"[c] for c in line).split(" ")[:-1]  # the last may be cut
        for u, v in itertools.pairwise(spoken):
            counts[names.index(u + " "), names.index(v + " ")] += 1
    error = (small.follows * (1 - small.follows) / counts.sum(1, keepdim=True)).sqrt()
    assert ((counts / counts.sum(1, keepdim=True) - small.follows).abs() <= 4.5 * error).all()


def test_a_character_is_foreseen_from_those_before_it_alone():
    model = build(partial(Transformer, 4, 8, width=12, heads=2, depth=2), 0)
    text = torch.randint(4, (2, 8), generator=draws())
    other = text.clone()
    other[:, 5] = (other[:, 5] + 1) % 4
    before, after = model(text), model(other)
    assert before.shape == (2, 8, 4)
    torch.testing.assert_close(before[:, :6], after[:, :6])
    assert (before[:, 6] - after[:, 6]).abs().amax() > 1e-3


def test_attention_is_that_of_torch():
    model = build(partial(Transformer, 4, 8, width=12, heads=2, depth=1), 0)
    block, x = model.blocks[0], torch.randn(3, 8, 12, generator=draws())
    split = lambda t: t.view(3, 8, 2, 6).transpose(1, 2)  # noqa: E731
    parts = map(split, block.ask(block.norm(x)).chunk(3, -1))
    found = F.scaled_dot_product_attention(*parts, is_causal=True).transpose(1, 2).reshape(3, 8, 12)
    between = x + block.answer(found)
    torch.testing.assert_close(block(x), between + block.think(between))


def test_the_network_has_about_sixty_thousand_weights():
    assert sum(p.numel() for p in language_study.make().parameters()) == 59_049


@pytest.mark.parametrize("method", [pytest.param("AdamW", marks=pytest.mark.slow), "SAM", "functional SAM"])
def test_a_network_goes_where_a_plain_loop_takes_it_alone(method, monkeypatch):
    """Two steps of the second of two networks, with torch's AdamW, and SAM around it, or the two passes by hand."""
    monkeypatch.setattr(language_study, "CHECKS", 1)
    gradients = 2 if method == "AdamW" else 4
    found = language_study.learn([5, 6], method, 0.01, 0.1, gradients=gradients)
    model, lines = build(language_study.make, 6), language_study.text([6], 2 * language_study.LINES, 0)[0][0]
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.1 if method == "AdamW" else 0.01)
    sam = SAM(optimizer, rho=0.1)
    loss = lambda z, batch: F.cross_entropy(z.flatten(0, 1), batch.flatten())  # noqa: E731
    for step in range(2):
        batch = lines[8 * step : 8 * step + 8]
        optimizer.param_groups[0]["lr"] = 0.01 * language_study.rate(step / 2)

        def closure(batch=batch):
            optimizer.zero_grad()
            found = loss(model(batch), batch)
            found.backward()
            return found

        if method == "SAM":
            sam.step(closure)
        elif method == "AdamW":
            optimizer.step(closure)
        else:
            closure()
            logits = model(batch).detach().requires_grad_()
            (slope,) = torch.autograd.grad(loss(logits, batch), logits)
            sam.ascend()
            optimizer.zero_grad()
            model(batch).backward(slope)
            sam.restore()
            optimizer.step()
    lines, surprise = language_study.text([6], language_study.N_TEST, 1)
    with torch.no_grad():
        excess = loss(model(lines[0]), lines[0]) - surprise.mean()
    row = found[found["seed"] == 6]
    assert row["gradients"].tolist() == [gradients] and row["excess"].item() == pytest.approx(excess.item(), abs=2e-5)


def test_text_to_learn_from_and_text_to_judge_on_are_two():
    (learned, _), (judged, _) = (language_study.text([0], 50, part) for part in (0, 1))
    assert not torch.equal(learned, judged) and not set(language_study.SEEDS) & set(language_study.TUNING_SEEDS)


def test_what_is_chosen_is_the_best_at_the_end():
    rows = [("AdamW", 0.1, 0.01, 4, 1.0), ("AdamW", 0.1, 0.01, 8, 0.5), ("AdamW", 0.2, 0.01, 4, 0.1)]
    rows += [("AdamW", 0.2, 0.01, 8, 0.6), ("AdamW", 0.3, 0.01, 8, math.nan)]
    rows += [(method, 0.1, 0.05, 8, 1.0) for method in language_study.PATHS]
    table = pd.DataFrame(rows, columns=["method", "lr", "setting", "gradients", "excess"]).assign(budget=8)
    assert language_study.chosen(table) == {"AdamW": (0.1, 0.01), **dict.fromkeys(language_study.PATHS, (0.1, 0.05))}


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: language.grammar(0, 30, 3), "n_words must be at most n_letters cubed, 27, got 30; give more letters"),
        (lambda: language.grammar(0, 5, 3, 6), "n_next must be an integer from 1 to 5, got 6"),
        (lambda: language.grammar(-1), "seed must be an integer"),
        (lambda: language.texts(language.grammar(0), 0, 8, draws()), "n must be an integer >= 1, got 0"),
        (lambda: Transformer(4, 8, width=10, heads=3), "heads must be a divisor of width = 10, got 3"),
        (
            lambda: language_study.learn([0], "Adam", 0.01, 0.1),
            "method must be one of AdamW, SAM, functional SAM, logit",
        ),
        (lambda: language_study.learn([0], "SAM", 0.01, 0.1, gradients=3), "gradients must be an integer >= 16, got 3"),
        (lambda: language_study.learn([0], "SAM", 0.01, -0.1), "rho must be a finite number >= 0, got -0.1"),
    ],
)
def test_what_cannot_be_is_named(call, said):
    with pytest.raises(ValueError, match=said):
        call()


def test_the_record_is_whole():
    tried, final = language_study.recorded()
    settings = [(m, lr, own) for m, owns in language_study.GRID.items() for lr in language_study.RATES for own in owns]
    assert len(tried) == len(settings) * 3 * language_study.CHECKS and len(settings) == 24
    assert set(zip(tried["method"], tried["lr"], tried["setting"], strict=True)) == set(settings)
    assert len(final) == 5 * 10 * language_study.CHECKS and final.notna().all(axis=None)
    best = language_study.chosen(tried)
    for (method, _), rows in final.groupby(["method", "budget"]):
        assert set(zip(rows["lr"], rows["setting"], strict=True)) == {best[method]}
        assert rows["gradients"].max() == rows["budget"].iloc[0]


@pytest.mark.slow
@pytest.mark.when_changed(*made_by("language_study"), "sam_lite/language_study.csv")
@pytest.mark.parametrize("method", ["AdamW", "functional SAM"])
def test_a_sample_of_the_record_is_what_training_gives(method):
    """An eighth of the way, before another processor's rounding has grown."""
    tried, final = language_study.recorded()
    again = language_study.learn([0], method, *language_study.chosen(tried)[method], stop=1 / language_study.CHECKS)
    same = final[(final["method"] == method) & (final["seed"] == 0) & (final["budget"] == language_study.GRADIENTS)]
    there = same.sort_values("gradients").iloc[0]
    assert again["gradients"].tolist() == [there["gradients"]]
    assert again["excess"].item() == pytest.approx(there["excess"], rel=0.03)
    assert again["through_logits"].item() == pytest.approx(there["through_logits"], abs=0.1)


def test_a_direction_leaves_the_global_generator_alone():
    before = torch.get_rng_state()
    language_study.direction("AdamW", 0.0)
    language_study.learn([0], "AdamW", 0.01, 0.0, gradients=8, stop=0.1)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(
    ("seeds", "stop", "said"),
    [
        ([0], 0.0, "seeds and stop must be for one network and one look or more, got .*0.0"),
        ([0], 0.01, "seeds and stop must be for one network and one look or more, got .*0.01"),
        ([], 1.0, r"seeds and stop must be for one network and one look or more, got '\[\]"),
        ([0], 1.5, "stop must be a finite number <= 1, got 1.5"),
    ],
)
def test_a_training_without_a_look_or_beyond_its_text_is_refused(seeds, stop, said):
    with pytest.raises(ValueError, match=said):
        language_study.learn(iter(seeds), "AdamW", 0.01, 0.1, 320, stop=stop)


@pytest.mark.parametrize("name", ["grids", "language_study", "contest"])
def test_who_asks_a_command_for_help_starts_no_training(name, monkeypatch, capsys):
    """`--help` trained for minutes, and wrote over the record that the package ships."""
    command = importlib.import_module(f"sam_lite.{name}")
    for part in ("reference", "tuning", "field"):
        monkeypatch.setattr(command, part, lambda *_: pytest.fail("it trains"), raising=False)
    for arguments, code in ((["--help"], 0), (["--nonsense"], 2), (["SMA"], 2)):
        monkeypatch.setattr(sys, "argv", [name, *arguments])
        with pytest.raises(SystemExit, match=str(code)):
            command.main()
    assert name in capsys.readouterr().out
