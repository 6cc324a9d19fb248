"""Tiny diffusers pipelines with everything that real ones have but their weights: for fast tests."""

import json
from collections import Counter
from functools import cache
from itertools import pairwise

import numpy as np
import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderTiny,
    DDIMScheduler,
    DiffusionPipeline,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    LatentConsistencyModelPipeline,
    LCMScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from tokenizers import pre_tokenizers
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
)

LINES = ["a red apple on a table", "wow!!! it's a cat", "two blue birds, one tree", "the house"]
STABLE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
BEGIN, END = "<|startoftext|>", "<|endoftext|>"


def learned_merges(words: list[list[str]]) -> list[tuple[str, str]]:
    """Byte-pair encoding learned on symbols of words: the commonest pair first, ties by name.

    The tokenizers library's own trainer breaks ties otherwise at every call, and with them every
    weight that is drawn after.
    """
    merges = []
    while pairs := Counter(p for w in words for p in pairwise(w)):
        first, second = min(pairs, key=lambda p: (-pairs[p], p))
        merges.append((first, second))
        for word in words:
            for i in range(len(word) - 2, -1, -1):
                if word[i : i + 2] == [first, second]:
                    word[i : i + 2] = [first + second]
    return merges


@cache
def clip_tokenizer(pad: str = END) -> CLIPTokenizer:
    """CLIP's own rules, with words of LINES; 77 ids a prompt."""
    rules = CLIPTokenizer().backend_tokenizer
    words = []
    for line in LINES:
        for word, _ in rules.pre_tokenizer.pre_tokenize_str(rules.normalizer.normalize_str(line)):
            words.append([*word[:-1], f"{word[-1]}</w>"])
    merges = learned_merges(words)
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = [*letters, *(f"{c}</w>" for c in letters), *map("".join, merges)]
    # "!" is CLIP's id 0: what pads where the pad token is "!".
    vocabulary = [*dict.fromkeys(["!", *vocabulary]), BEGIN, END]
    return CLIPTokenizer(
        vocab={w: i for i, w in enumerate(vocabulary)},
        merges=merges,
        pad_token=pad,
        model_max_length=77,
    )


def text_encoder(tokenizer, width=16, projection=0, layers=2):
    end = tokenizer.convert_tokens_to_ids(END)
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=layers,
        num_attention_heads=2,
        max_position_embeddings=77,
        bos_token_id=end - 1,
        eos_token_id=end,
        pad_token_id=tokenizer.pad_token_id,
        projection_dim=projection or width,
    )
    return (CLIPTextModelWithProjection if projection else CLIPTextModel)(config).eval()


def unet(context, **more):
    return UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(16,),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D",),
        up_block_types=("CrossAttnUpBlock2D",),
        cross_attention_dim=context,
        norm_num_groups=4,
        attention_head_dim=2,
        **more,
    ).eval()


def autoencoder(**more):
    return AutoencoderKL(
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=4,
        sample_size=16,
        **more,
    ).eval()


def lively(pipeline):
    """Random weights draw grey noise: the decoder's last layer is made to use the whole range, and
    to blur, so that the picture of one is no noise by genedge's own measure."""
    decoder = pipeline.vae.decoder
    last = decoder.conv_out if hasattr(decoder, "conv_out") else decoder.layers[-1]
    with torch.no_grad():
        last.weight.copy_(18 * last.weight.mean((2, 3), keepdim=True).expand_as(last.weight))
    return pipeline


def stable_diffusion(scheduler=None, **more):
    torch.manual_seed(0)
    words = clip_tokenizer()
    parts = {
        "vae": autoencoder(scaling_factor=0.18215),
        "text_encoder": text_encoder(words),
        "tokenizer": words,
        "unet": unet(16),
        "scheduler": scheduler or DDIMScheduler(**STABLE, clip_sample=False, steps_offset=1),
        "safety_checker": None,
        "feature_extractor": None,
    } | more
    return lively(StableDiffusionPipeline(**parts, requires_safety_checker=False))


def turbo():
    """One step, no guidance, a tiny autoencoder: as SDXS and Turbo models are saved."""
    torch.manual_seed(1)
    vae = AutoencoderTiny(
        encoder_block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8),
        num_encoder_blocks=(1, 1),
        num_decoder_blocks=(1, 1),
    ).eval()
    scheduler = EulerDiscreteScheduler(**STABLE, timestep_spacing="trailing")
    return stable_diffusion(scheduler, vae=vae)


def consistency():
    torch.manual_seed(2)
    plain = stable_diffusion()
    parts = {k: v for k, v in plain.components.items() if k != "image_encoder"}
    parts |= {"unet": unet(16, time_cond_proj_dim=8), "scheduler": LCMScheduler(**STABLE)}
    return lively(LatentConsistencyModelPipeline(**parts, requires_safety_checker=False))


def stable_diffusion_xl():
    torch.manual_seed(3)
    one, two = clip_tokenizer(), clip_tokenizer("!")
    more = {"addition_embed_type": "text_time", "addition_time_embed_dim": 8}
    made = StableDiffusionXLPipeline(
        vae=autoencoder(
            scaling_factor=0.13025,
            latents_mean=[0.1, -0.2, 0.3, 0.0],
            latents_std=[1.5, 1.2, 0.9, 1.1],
        ),
        text_encoder=text_encoder(one),
        text_encoder_2=text_encoder(two, width=24, projection=12),
        tokenizer=one,
        tokenizer_2=two,
        unet=unet(40, projection_class_embeddings_input_dim=12 + 6 * 8, **more),
        scheduler=EulerDiscreteScheduler(**STABLE, timestep_spacing="leading", steps_offset=1),
        force_zeros_for_empty_prompt=True,
        add_watermarker=False,
    )
    return lively(made)


def stable_diffusion_3():
    torch.manual_seed(4)
    one, two = clip_tokenizer(), clip_tokenizer("!")
    made = StableDiffusion3Pipeline(
        transformer=SD3Transformer2DModel(
            sample_size=8,
            patch_size=2,
            in_channels=4,
            num_layers=4,  # as int8 more than half of the numbers must be int8, edges and decoder aside
            attention_head_dim=8,
            num_attention_heads=2,
            joint_attention_dim=40,
            caption_projection_dim=16,
            pooled_projection_dim=24,
            out_channels=4,
            pos_embed_max_size=16,
        ).eval(),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=autoencoder(
            scaling_factor=1.5305,
            shift_factor=0.0609,
            use_quant_conv=False,
            use_post_quant_conv=False,
        ),
        text_encoder=text_encoder(one, projection=12),
        tokenizer=one,
        text_encoder_2=text_encoder(two, width=24, projection=12),
        tokenizer_2=two,
        text_encoder_3=None,
        tokenizer_3=None,
    )
    return lively(made)


def solver():
    """The same U-Net under DPM-Solver++(2M) with v-prediction."""
    return stable_diffusion(DPMSolverMultistepScheduler(**STABLE, prediction_type="v_prediction"))


KINDS = {
    "stable-diffusion": stable_diffusion,
    "turbo": turbo,
    "lcm": consistency,
    "xl": stable_diffusion_xl,
    "sd3": stable_diffusion_3,
    "dpm": solver,
}


# By kind: how it is drawn in tests. Few steps: what differs shows at once.
WALKS = {kind: {"steps": 2} for kind in KINDS} | {
    "turbo": {"steps": 1, "guidance": 0.0},
    "dpm": {"steps": 4},
}


def their_pixels(folder, feed, monkeypatch, steps=2, guidance=None, **more):
    """uint8 (H, W, 4): diffusers' own pipeline on the same latents, and the noise of its steps."""
    empty = {k: None for k, v in json.loads((folder / "model_index.json").read_text()).items()
             if v == [None, None]}  # fmt: skip
    theirs = DiffusionPipeline.from_pretrained(str(folder), local_files_only=True, **empty)
    theirs.set_progress_bar_config(disable=True)
    noise = torch.from_numpy(feed.inputs["noise"])
    left = iter([*noise[1:], noise[0]])  # an ancestral step multiplies the last one by 0
    for file in ("lcm", "euler_ancestral_discrete"):
        monkeypatch.setattr(
            f"diffusers.schedulers.scheduling_{file}.randn_tensor", lambda *a, **k: next(left)[None]
        )
    more |= {} if guidance is None else {"guidance_scale": guidance}
    drawn = theirs(
        feed.prompt, num_inference_steps=steps, latents=noise[:1], output_type="np", **more
    ).images[0]
    levels = (drawn * 255).round().astype(np.uint8)
    return np.concatenate([levels, np.full_like(levels[..., :1], 255)], -1)
