"""A generator of a few thousand weights with everything that `emoji` has: for fast tests."""

import functools

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import nn

from genedge.runtime.signature import Signature, TensorSpec
from genedge.runtime.tokenizer import PromptTokenizer
from genedge.toolkit.generator import Component, Generator

WORDS = ["red", "green", "blue", "apple", "face", "square", "round", "small"]
STYLES = ("flat", "soft")


class Text(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(320, 16)
        self.conv = nn.Conv2d(16, 32, (1, 3), padding=(0, 1))
        self.noise = nn.Linear(4, 32)
        self.write = nn.Linear(32, 64)

    def forward(self, tokens, noise):
        x = torch.relu(self.conv(self.embedding(tokens).transpose(1, 2).unsqueeze(2)))
        h = torch.relu(x.mean((2, 3), keepdim=True).flatten(1) + self.noise(noise))
        return self.write(h).view(-1, 4, 4, 4)


class Image(nn.Module):
    def __init__(self):
        super().__init__()
        self.entry = nn.Conv2d(4, 16, 3, padding=1)
        self.style = nn.Linear(2, 16)
        self.up = nn.Conv2d(16, 64, 1)
        self.shuffle = nn.PixelShuffle(4)
        self.exit = nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, code, style):
        x = torch.relu(self.entry(code) + self.style(style).view(-1, 16, 1, 1))
        return F.hardtanh(self.exit(torch.relu(self.shuffle(self.up(x)))), 0.0, 1.0)


@functools.cache
def tokenizer_json() -> str:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(" ", "merged_with_next"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=["<pad>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator([f" {w}" for w in WORDS] * 3, trainer)
    return tokenizer.to_str()


def tiny(name: str = "tiny", seed: int = 0) -> Generator:
    """Deterministic; PSNR of its int8 graph is about what a trained generator's is."""
    torch.manual_seed(seed)
    text, image = Text().eval(), Image().eval()
    with torch.no_grad():
        text.write.weight.mul_(4)
        image.exit.bias.add_(0.5)
        for parameter in (image.up.weight, image.up.bias):  # blocks of one colour, no noise
            parameter.copy_(parameter[::16].repeat_interleave(16, 0))
    signature = Signature(
        inputs={
            "tokens": TensorSpec("int64", (1, 8), 0, 319, "prompt"),
            "noise": TensorSpec("float32", (1, 4), -6, 6, "noise"),
            "style": TensorSpec("float32", (1, 2), 0, 1, "style"),
        },
        output_name="picture",
        output=TensorSpec("float32", (1, 4, 16, 16), 0, 1),
        layout="rgba-premultiplied",
        styles=STYLES,
        tokenizer={"length": 8, "pad": 0},
    )
    text_json = tokenizer_json()
    return Generator(
        name=name,
        components=(
            Component("text", text, ("tokens", "noise"), ("code",)),
            Component("image", image, ("code", "style"), ("picture",)),
        ),
        signature=signature,
        tokenizer=PromptTokenizer(Tokenizer.from_str(text_json), 8, 0),
        tokenizer_json=text_json,
        calibration=tuple(
            f"{a} {b}, {s} style" for a in WORDS[:3] for b in WORDS[3:6] for s in STYLES
        ),
        golden=tuple(f"{a} {b}" for a in WORDS[:3] for b in WORDS[6:]),
    )


def other() -> Generator:
    """The same shapes, other weights."""
    return tiny(seed=1)
