"""Text encoders as folders that `transformers` loads, with their tokenizer.

Raises: UserError where the network was not made by `transformers`, or its outputs differ there.
"""

import copy
from pathlib import Path
from typing import Any

import torch
from torch import nn

from selfsame.errors import UserError
from selfsame.modalities.text.encoder import TextEncoder
from selfsame.modalities.text.networks import library, quiet
from selfsame.modalities.text.tokens import PAD, made_from
from selfsame.modalities.text.tokens import library as tokenizers
from selfsame.storage.compared import compared
from selfsame.storage.wanted import Fed, Wanted

VECTOR = "[VECTOR]"  # the word that stands for a class token


def write(encoder: TextEncoder, fed: Fed, folder: Path, wanted: Wanted) -> dict[str, Any]:
    """What `save_pretrained` writes of the network and of the tokenizer; the snippet's `vectors` are the encoder's.

    A class token, which is a parameter of the encoder, becomes the last word of the vocabulary, with which the
    tokenizer begins each text. A network that sees no token behind it is written as a decoder. The pooler that the
    library puts on some networks is not learned, and not written.
    """
    spec = encoder.spec
    if not encoder.has_tokens:
        what = "a network of your own" if spec["library"] == "own" else "no network of that library"
        raise UserError(f"transformers cannot hold {spec['name']}, which is {what}. Export to onnx or torch.")
    tf, model = library(), copy.deepcopy(encoder.trunk)
    network: Any = model
    words = made_from(spec["stats"]["tokenizer"])
    lead = ""
    if encoder.class_token is not None:
        place = network.get_input_embeddings().num_embeddings
        network.set_input_embeddings(with_row(network.get_input_embeddings(), encoder.class_token))
        network.config.vocab_size = place + 1
        lead_with_class(words, place)
        lead = f"ids = torch.nn.functional.pad(tokens, (1, 0), value={place})  # the tokenizer does it by itself\n"
    if spec["attention"] == "causal":
        network.config.is_decoder = True
    with quiet():
        (network.half() if wanted.half else network).save_pretrained(folder)
        fast = tf.PreTrainedTokenizerFast(
            tokenizer_object=words,
            pad_token=words.id_to_token(0) or PAD,
            model_max_length=spec["size"] + bool(lead),
        )
        fast.save_pretrained(folder)
    full = ".float()" if wanted.half else ""
    load = (
        "import torch\nfrom transformers import AutoModel\n\n"
        f"model = AutoModel.from_pretrained({str(folder)!r}){full}.eval()\n"
    )
    use = (lead or "ids = tokens\n") + (
        "there = (ids != 0).long()\n"
        "with torch.inference_mode():\n"
        "    states = model(input_ids=ids.long(), attention_mask=there).last_hidden_state\n"
    )
    mean = "vectors = (states * there[..., None]).sum(1) / there.sum(1, keepdim=True)\n"
    use += "vectors = states[:, 0]\n" if lead else mean
    with quiet():
        checked = compared(encoder, fed, load, use, wanted)
    return {
        "input": fed.told,
        "class": type(network).__name__,
        **checked,
        "tokens_of": (
            "from transformers import AutoTokenizer\n\n"
            f"tokenizer = AutoTokenizer.from_pretrained({str(folder)!r})\n"
            'texts = ["a text of yours", "another one"]\n'
            'tokens = tokenizer(texts, padding=True, truncation=True, return_tensors="pt")["input_ids"]\n'
        ),
    }


def with_row(words: nn.Embedding, row: torch.Tensor) -> nn.Embedding:
    """An embedding with one word more."""
    made = nn.Embedding(words.num_embeddings + 1, words.embedding_dim, padding_idx=words.padding_idx)
    made.weight = nn.Parameter(torch.cat([words.weight.detach(), row.detach()[None]]))
    return made


def lead_with_class(words: Any, place: int) -> None:
    """Let a tokenizer begin each text with the word of this number."""
    tk = tokenizers()
    words.add_special_tokens([VECTOR])
    if words.token_to_id(VECTOR) != place:
        raise UserError(
            f"the tokenizer has {words.get_vocab_size() - 1} words and the network {place}, so that its class token "
            "finds no place. Export to onnx or torch."
        )
    words.post_processor = tk.processors.TemplateProcessing(
        single=f"{VECTOR} $A", pair=f"{VECTOR} $A $B", special_tokens=[(VECTOR, place)]
    )
