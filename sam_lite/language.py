"""A language whose entropy is known, and a small transformer that learns it character by character.

A text is a row of words, each ended by a space, and each chosen by chance among the few that may follow the word before.
So the true chance of every character can be computed, and with it the least loss that any model can reach.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sam_lite import require


class Grammar(NamedTuple):
    """codes: (n_words, longest + 1) characters of each word, 0 is the space at its end, -1 what follows that.
    follows: (n_words, n_words) float64, row u: the chance of each word after word u. first: (n_words,), of the first word.
    """

    codes: Tensor
    follows: Tensor
    first: Tensor


def grammar(seed: int, n_words: int = 40, n_letters: int = 8, n_next: int = 4) -> Grammar:
    """A random language: words of three to six letters, `n_next` of which may follow a word, with random chances.

    One of these is the next word in the list, so that every word is reached. The chances are uniform on the simplex. The
    first word of a text is drawn from the stationary distribution, which the words of a long text have.
    """
    n_words, n_letters = require.whole("n_words", n_words, least=2), require.whole("n_letters", n_letters, least=2)
    n_next = require.whole("n_next", n_next, most=n_words)
    if n_words > n_letters**3:  # the words of three letters alone would do
        raise require.error("n_words", f"at most n_letters cubed, {n_letters**3}", n_words, "give more letters")
    dice, words = torch.Generator().manual_seed(require.seed(seed)), {}
    while len(words) < n_words:
        size = int(torch.randint(3, 7, (), generator=dice))
        letters = torch.randint(1, n_letters + 1, (size,), generator=dice).tolist()
        words[tuple(letters)] = F.pad(torch.tensor([*letters, 0]), (0, 6 - size), value=-1)
    follows = torch.zeros(n_words, n_words, dtype=torch.float64)
    for u in range(n_words):
        others = torch.randperm(n_words, generator=dice)
        others = others[others != (u + 1) % n_words][: n_next - 1]
        may = torch.cat([torch.tensor([(u + 1) % n_words]), others])
        chances = -torch.rand(n_next, generator=dice, dtype=torch.float64).log()
        follows[u, may] = chances / chances.sum()
    return Grammar(torch.stack(list(words.values())), follows, stationary(follows))


def stationary(follows: Tensor) -> Tensor:
    """The distribution p (n,) with p follows = p, for a chain that gets from every state to every other."""
    n = len(follows)
    equations = torch.cat([follows.T - torch.eye(n, dtype=follows.dtype), torch.ones(1, n, dtype=follows.dtype)])
    return torch.linalg.lstsq(equations, torch.eye(n + 1, dtype=follows.dtype)[:, -1:]).solution[:, 0]


def entropy_rate(language: Grammar) -> float:
    """Nats a character in a long text: the mean entropy of the next word over the mean length of a word with its space.

    Words end where a space stands, and there alone, so that text and words tell the same (Shannon 1948, section 7).
    """
    surprise = torch.special.entr(language.follows).sum(1)
    sizes = (language.codes >= 0).sum(1).double()
    return ((language.first @ surprise) / (language.first @ sizes)).item()


def texts(language: Grammar, n: int, length: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """`n` texts of `length` characters, (n, length) integers, and each character's -log of its true chance, as float64.

    The chance is that given all characters before it in its text, and that the text begins with a word.
    """
    n, length = require.whole("n", n), require.whole("length", length)
    codes, n_words = language.codes, len(language.codes)
    chain = [torch.multinomial(language.first, n, replacement=True, generator=generator)]
    while 4 * len(chain) < length:  # a word and its space have four characters at least
        chain.append(torch.multinomial(language.follows[chain[-1]], 1, generator=generator)[:, 0])
    words = torch.stack(chain, 1)  # (n, n_chain)
    before = torch.cat([torch.full((n, 1), n_words), words[:, :-1]], 1)  # n_words stands for the beginning
    given = torch.cat([language.follows, language.first[None]])
    alike = (codes[:, None] == codes).long().cumprod(2)  # do words w and v share the first j + 1 characters?
    mass = torch.einsum("uv,wvj->uwj", given, F.pad(alike, (1, 0), value=1).double())
    surprise = (mass[..., :-1] / mass[..., 1:]).log()[before, words]  # (n, n_chain, longest + 1)
    spoken = codes[words].flatten(1)
    order = (
        (spoken < 0).long().argsort(dim=1, stable=True)[:, :length]
    )  # what a short word leaves empty goes to the end
    return spoken.gather(1, order), surprise.flatten(1).gather(1, order)


class Block(nn.Module):
    """Attention to all earlier characters, then a layer for each by itself: x (..., length, width) -> the same shape."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.norm, self.ask, self.answer = nn.LayerNorm(width), nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.think = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        parts = self.ask(self.norm(x)).chunk(3, -1)
        query, key, value = (part.unflatten(-1, (self.heads, -1)).transpose(-2, -3) for part in parts)
        scores = query @ key.mT / math.sqrt(query.shape[-1])  # (..., heads, length, length)
        later = torch.ones(scores.shape[-2:], dtype=torch.bool, device=x.device).triu(1)
        found = scores.masked_fill(later, -math.inf).softmax(-1) @ value
        x = x + self.answer(found.transpose(-2, -3).flatten(-2))
        return x + self.think(x)


class Transformer(nn.Module):
    """Texts (n, length) -> logits (n, length, n_characters) of each character, from those before it alone.

    Layers as in GPT-2 (Radford and others 2019): norms first, learned positions. Before the first character stands a space.

    Args:
        n_characters: with the space, which is number 0.
        length: of a text, at most.
        width, heads, depth: numbers a character, attention heads (a divisor of width), blocks.
    """

    def __init__(self, n_characters: int, length: int, width: int = 48, heads: int = 3, depth: int = 2):
        super().__init__()
        n_characters, length = require.whole("n_characters", n_characters), require.whole("length", length)
        width, heads, depth = (require.whole(*pair) for pair in (("width", width), ("heads", heads), ("depth", depth)))
        if width % heads:
            raise require.error("heads", f"a divisor of width = {width}", heads)
        self.embed, self.place = nn.Embedding(n_characters, width), nn.Parameter(0.02 * torch.randn(length, width))
        self.blocks = nn.Sequential(*[Block(width, heads) for _ in range(depth)])
        self.norm, self.out = nn.LayerNorm(width), nn.Linear(width, n_characters)

    def forward(self, text: Tensor) -> Tensor:
        before = F.pad(text[..., :-1], (1, 0))
        return self.out(self.norm(self.blocks(self.embed(before) + self.place[: text.shape[-1]])))
