"""Prompts in other words are kept from training, and words beyond the captions come from WordNet."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models

from genedge.runtime.tokenizer import PromptTokenizer
from genedge.toolkit.zoo.emoji import data, wider
from genedge.toolkit.zoo.emoji.captions import (
    CHINESE,
    captions_of,
    load_trained,
    train_tokenizer,
)
from genedge.toolkit.zoo.emoji.data import Art, Emoji
from genedge.toolkit.zoo.emoji.model import MEANINGS, TextSide
from genedge.toolkit.zoo.emoji.paraphrases import kept_out, paraphrases
from genedge.toolkit.zoo.emoji.text import PromptBatches
from genedge.toolkit.zoo.emoji.transplant import transplanted

CACHE = Path(__file__).parents[1] / ".cache"


def emoji(code, name, *tags):
    return Emoji(code, name, "Animals & Nature", tags, code, False)


@pytest.fixture(scope="module")
def art():
    few = (
        emoji("1f431", "cat face", "cat", "pet", "whiskers"),
        emoji("1f436", "dog face", "dog", "pet", "puppy"),
        emoji("1f43b", "bear", "grizzly", "growl"),
        emoji("1f697", "automobile", "car", "driving"),
    )
    none = np.zeros(0, np.int64)
    return Art(np.zeros((0, 64, 64, 4), np.uint8), few, none, none, none.astype(bool))


def tokenizer():
    return PromptTokenizer(Tokenizer(models.BPE(unk_token="?", vocab={"?": 1}, merges=[])), 32, 0)


def all_prompts(batches, rows, rounds=200):
    seen = []
    batches.tokens = lambda prompts: seen.extend(prompts)
    random = np.random.default_rng(0)
    for _ in range(rounds):
        batches.names(rows, random)
        batches.keywords(random, 8)
        batches.either(rows, random, 0.5)
    return seen


def test_there_are_enough_of_each_kind_and_none_twice():
    kinds = [(p.language, p.source) for p in paraphrases()]
    assert kinds.count(("en", "wordnet")) >= 100
    assert kinds.count(("en", "written")) >= 100
    assert kinds.count(("zh", "written")) >= 70
    assert len(kept_out()) == len(kinds)
    assert all(p.emoji for p in paraphrases())


def test_a_prompt_that_is_kept_never_comes_up(art):
    """Openings, keywords behind a name and turned phrases put prompts together by chance."""
    captions = captions_of(art)
    codes = torch.zeros(4, 64, 4, 4)
    free = all_prompts(PromptBatches(captions, tokenizer(), codes, 1), captions.rows)
    kept = frozenset({"a cat", "the bear", "face cat", "draw pet"})
    assert kept <= set(free)
    batches = PromptBatches(captions, tokenizer(), codes, 1, kept=kept)
    seen = all_prompts(batches, captions.rows)
    assert len(seen) > 2000
    assert not kept & set(seen)


def test_a_caption_that_is_kept_is_refused(art):
    with pytest.raises(ValueError, match="'puppy' is kept for judging"):
        PromptBatches(
            captions_of(art), tokenizer(), torch.zeros(4, 1), 1, kept=frozenset({"puppy"})
        )
    with pytest.raises(ValueError, match="'motorcar' is kept for judging"):
        PromptBatches(
            captions_of(art),
            tokenizer(),
            torch.zeros(4, 1),
            1,
            wider={"motorcar": (3,) * 16},
            kept=frozenset({"motorcar"}),
        )


@pytest.mark.skipif(not (CACHE / "packages").is_dir(), reason="the captions are not fetched")
def test_no_caption_of_the_real_ones_contains_a_paraphrase():
    known = json.loads((CACHE / "emoji-64-v1" / "emoji.json").read_text())
    known = tuple(Emoji(**{**e, "tags": tuple(e["tags"])}) for e in known)
    none = np.zeros(0, np.int64)
    whole = Art(np.zeros((0, 64, 64, 4), np.uint8), known, none, none, none.astype(bool))
    english = captions_of(whole)
    chinese = captions_of(whole, data.translations(CACHE, "zh"), CHINESE)
    for captions, language in ((english, "en"), (chinese, "zh")):
        said = [*captions.names.values(), *captions.vague, *captions.phrases, *captions.unseen]
        said += [phrase for phrases in captions.exact.values() for phrase in phrases]
        edge = " " if language == "en" else ""
        text = "\n".join(f"{edge}{s}{edge}" for s in said)
        mine = [p.prompt for p in paraphrases() if p.language == language]
        assert [p for p in mine if f"{edge}{p}{edge}" in text] == []


def test_chinese_captions_are_put_together_without_spaces(art):
    said = {"1f431": ("猫脸", ("宠物", "脸")), "1f436": ("狗脸", ("宠物", "脸"))}
    captions = captions_of(art, said, CHINESE)
    assert captions.rows.tolist() == [0, 1]
    assert captions.phrases | captions.unseen == {"宠物脸": (0, 1)}
    assert "animals nature" not in captions.vague


HEAD = "  1 This software and database\n"
INDEX = "car n 5 4 @ ~ %p + 5 1 02961779 02963378\nmotorcar n 1 1 @ 1 0 02961779\n"
DATA = (
    "02961779 06 n 05 car 0 auto 0 automobile 0 machine 3 motorcar 0 001 @ 0 n 0000 | a motor "
    'vehicle with four wheels; "he needs a car to get to work"\n'
    "02961780 15 n 01 Paris 0 000 | a city\n"
    "02961781 05 n 01 polar_bear 0 001 @ 02961783 n 0000 | a white bear of the Arctic\n"
    "02961782 09 n 01 idea 0 000 | a thought\n"
    "02961783 05 n 01 bear 0 002 ~ 02961781 n 0000 @ 02961784 n 0000 | " + "massive " * 12 + "\n"
    "02961784 03 n 02 animal 0 beast 0 000 | a living thing that moves\n"
)


def test_wordnets_files_are_read(tmp_path):
    (tmp_path / "dict").mkdir()
    for kind in ("noun", "verb", "adj"):
        (tmp_path / "dict" / f"index.{kind}").write_text(HEAD + (INDEX if kind == "noun" else ""))
        (tmp_path / "dict" / f"data.{kind}").write_text(HEAD + (DATA if kind == "noun" else ""))
    car, polar, bear = wider.synsets(tmp_path)
    assert car.words == ("car", "auto", "automobile", "machine", "motorcar")
    assert car.gloss == "a motor vehicle with four wheels"
    assert (polar.words, polar.gloss) == (("polar bear",), "a white bear of the arctic")
    assert (car.common, polar.common) == (True, False)
    assert polar.kinds == (frozenset({"bear"}), frozenset({"animal", "beast"}))
    assert bear.gloss == ("massive " * 10).strip()  # cut where a word ends


def test_a_word_means_the_emoji_that_the_teacher_finds_near(art, tmp_path, monkeypatch):
    from genedge.toolkit.zoo.emoji import text

    places = {"automobile": 0, "motorcar": 0, "polar bear": 1, "bear": 1}

    def embeddings(texts):
        place = [places.get(t.split(":")[0], 5) for t in texts]
        return torch.nn.functional.one_hot(torch.tensor(place), 6).float()

    found = [
        wider.Synset(("motorcar", "car"), ""),
        wider.Synset(("polar bear", "thought"), "white", False),
    ]
    monkeypatch.setattr(text, "teacher_embeddings", embeddings)
    monkeypatch.setattr(wider, "fetch", lambda package, cache: tmp_path)
    monkeypatch.setattr(wider, "synsets", lambda folder: found)
    said = {"🐱": ("cat face", "mouser", "pet", "secret")}
    monkeypatch.setattr(wider, "searched_by", lambda cache: said)
    words = wider.wider_words(
        captions_of(art), tmp_path, tmp_path / "work", frozenset({"secret"}), lambda *row: None
    )
    assert words["motorcar"] == (3,)
    assert words["mouser"] == (0,)  # MiniLM finds nothing near: people look it up so
    assert words["mouser: cat pet whiskers"] == words["pet: cat whiskers mouser"] == (0,)
    assert not any("secret" in w for w in words)
    assert words["polar bear"] == words["polar bear: white"] == (2,)
    assert "white" not in words  # the gloss of a rare word says too little by itself
    assert "car" not in words  # it is a caption
    again = wider.wider_words(
        captions_of(art), tmp_path, tmp_path / "work", frozenset({"secret"}), lambda *row: None
    )
    assert again == words


def test_wordnet_speaks_for_an_emoji_that_a_word_means_or_is_a_kind_of(art):
    found = [
        wider.Synset(("auto", "automobile"), "four wheels"),
        wider.Synset(("kodiak",), "brown", True, (frozenset({"bear"}), frozenset({"cat face"}))),
        wider.Synset(("secret", "idea"), "a thought"),
    ]
    captions = captions_of(art)
    asked = wider.asked_of(found, captions, frozenset({"secret"}))
    place = {captions.names[int(row)]: i for i, row in enumerate(captions.rows)}
    assert asked["auto"] == ("auto", {place["automobile"]: wider.NAME})
    assert asked["auto: four wheels"][1] == {place["automobile"]: wider.NAME}
    assert "automobile" not in asked  # a caption
    assert asked["kodiak"][1] == {place["bear"]: 0.12, place["cat face"]: 0.06}
    assert "secret" not in asked  # what is kept for judging stands in an entry at most
    assert asked["secret: a thought"] == ("secret: a thought", {})


def test_what_people_look_an_emoji_up_by_is_read(tmp_path, monkeypatch, art):
    (tmp_path / "dist").mkdir()
    (tmp_path / "dist" / "emoji-en-US.json").write_text(
        '{"☺️": ["smiling_face"], "🐻": ["Grizzly"]}'
    )
    monkeypatch.setattr(data, "fetch", lambda package, cache: tmp_path)
    said = data.searched_by(tmp_path)
    assert said == {"☺": ("smiling face",), "🐻": ("Grizzly",)}  # no variation selector
    more = wider.looked_up(captions_of(art), {**said, "🐱": ("Moggy", "Moggy", "cat")}, {"cat"})
    assert more == {0: ("moggy",), 1: (), 2: (), 3: ()}  # "grizzly" is a tag


def test_an_entry_is_said_as_its_word_and_some_of_its_gloss():
    random = np.random.default_rng(0)
    said = {wider.spoken("bear: a large animal", random) for _ in range(200)}
    assert {"bear a large animal", "bear animal", "bear a"} <= said
    assert "bear" not in said
    assert wider.spoken("polar bear", random) == "polar bear"


def test_a_transplanted_text_side_writes_what_the_old_one_wrote(art, tmp_path):
    """In another vocabulary, where all hidden units fit and every word is spelled by old tokens."""
    captions = captions_of(art)
    train_tokenizer([captions], [], tmp_path / "old.json")
    train_tokenizer(
        [captions], ["submarine", "submarines", "submarine sandwich"] * 9, tmp_path / "new.json"
    )
    old, new = (load_trained(tmp_path / f"{name}.json") for name in ("old", "new"))
    torch.manual_seed(0)
    known = TextSide().eval()
    carried = transplanted(known, PromptBatches(captions, old, torch.zeros(4, 64, 4, 4), 0), new)
    for name in ("words", "scale", "shift", "hidden", "write"):
        assert torch.equal(getattr(carried, name).weight, getattr(known, name).weight)
    assert torch.equal(carried.embedding.weight[new.pad], torch.zeros(160))
    ids, vocabulary = new.tokenizer.get_vocab(), old.tokenizer.get_vocab()
    for token in set(ids) & set(vocabulary) - {"<pad>"}:
        there, here = vocabulary[token], ids[token]
        assert torch.equal(carried.embedding.weight[here], known.embedding.weight[there])
    (fresh, *_) = [token for token in ids if token not in vocabulary]
    spelled = [t.id for t in old.tokenizer.model.tokenize(fresh)]
    mean = known.embedding.weight[spelled].mean(0)
    assert torch.equal(carried.embedding.weight[ids[fresh]], mean)


def test_fewer_hidden_units_keep_those_that_are_heard(art, tmp_path):
    captions = captions_of(art)
    train_tokenizer([captions], [], tmp_path / "tokenizer.json")
    tokenizer = load_trained(tmp_path / "tokenizer.json")
    torch.manual_seed(0)
    wide = TextSide(hidden=1000, things=1500).eval()
    with torch.no_grad():
        wide.write.weight[:, 1344:] = 0  # units that nothing reads
        wide.hidden.weight[:, 896:] = 0
    batches = PromptBatches(captions, tokenizer, torch.zeros(4, 64, 4, 4), 0)
    carried = transplanted(wide, batches, tokenizer)
    tokens = torch.from_numpy(tokenizer.encode("cat face")[0])
    meaning = torch.eye(MEANINGS)[3:4]
    with torch.no_grad():
        assert torch.allclose(carried(tokens, meaning), wide(tokens, meaning), atol=1e-4)
