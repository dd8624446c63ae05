"""Next word: say at each place which word comes next, from those before it.

Source: Radford et al. 2018 (GPT) and 2019 (GPT-2); Bengio et al. 2003 for the task. The encoder's attention is made
causal, for good: no token sees those behind it. The vector is the mean of the tokens' last states, which tells more of
a text than the last token does in small networks.
Deviations: the network is the encoder's, norms behind its layers as in BERT, where GPT-2 has them before; a small head
stands between the last states and the tied word vectors, as in BERT, so that the states need not be the next word's
own. Perplexity is exp of the loss; tokens are pieces of words, so it compares only where the tokenizer is the same.
"""

from typing import ClassVar

from torch import Tensor

from selfsame import types
from selfsame.nn.diagnose import spread
from selfsame.nn.views import as_planned
from selfsame.nn.vocabulary import WordHead, counted_mean
from selfsame.records import Preset, ViewPlan


class NextWord(types.Method):
    """Learn by predicting the next word."""

    needs: ClassVar = ("words",)
    good_for: ClassVar = "much text, where texts are also to be scored by how likely they are"
    presets: ClassVar = {
        "gpt": Preset(
            source="Radford et al. 2018, section 4.1: 12 layers of width 768, 64 texts of 512 tokens, 100 passes",
            training={
                "optimizer": "adamw", "lr": 2.5e-4, "batch_size": 64, "weight_decay": 0.01, "epochs": 100,
                "encoder": "bert-base", "size": 512, "views": "simcse",
            },
            published="perplexity of 18.4 on BooksCorpus, with its own tokens",
        ),
    }  # fmt: skip

    @property
    def plan(self) -> ViewPlan:
        return ViewPlan(full=1)

    def build(self, encoder: types.Encoder, items: int = 0) -> "Learner":
        return Learner(self, encoder)


class Learner(types.Learner):
    """Next word at work. Views: a full one."""

    def __init__(self, method: NextWord, encoder: types.Encoder) -> None:
        super().__init__()
        self.method = method
        encoder.use_causal()
        self.encoder = encoder
        self.head = WordHead(encoder.dim, encoder.vocabulary)

    def forward(self, views: list[Tensor]) -> types.Step:
        views = as_planned(views, self.method.plan, "next word")
        (view,) = views
        encoder = self.encoder
        tokens, real = encoder.word_tokens(view), encoder.word_places(view)
        # The first word is predicted from nothing, and so is not asked for.
        counted = real[:, 1:] & real[:, :-1]
        losses, right = self.head.losses(tokens[:, :-1], encoder.word_vectors, view[:, 1:].long())
        vectors = (tokens * real[..., None]).sum(dim=1) / real.sum(dim=1, keepdim=True).clamp(min=1)
        loss = counted_mean(losses, counted)
        logs = {
            "accuracy": counted_mean(right.float(), counted),
            "perplexity": loss.detach().exp(),
            "spread": spread(vectors.detach()),
        }
        return types.Step(loss, logs)
