"""LoRAs of a student, and its difference added to other models: against diffusers, an SVD, and plain arithmetic."""

from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionXLPipeline, UNet2DConditionModel
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tiny_sdxl import make_repository, make_unet
from torch import nn

from nitro_lab.cli import main
from nitro_lab.extraction import extract_lora, transfer
from nitro_lab.randomness import seeded
from nitro_lab.weights import CheckpointError

FULL = 10_000  # above the smaller side of any layer


@pytest.fixture(scope="module")
def unets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three UNets: a base, a student near it, and another model. Not to be changed."""
    folder = tmp_path_factory.mktemp("unets")
    base = seeded(1, make_unet).state_dict()
    change = seeded(2, lambda: {name: torch.randn_like(weight) / 50 for name, weight in base.items()})
    save_file(base, folder / "base.safetensors")
    save_file({name: weight + change[name] for name, weight in base.items()}, folder / "student.safetensors")
    save_file(seeded(3, make_unet).state_dict(), folder / "other.safetensors")
    return folder


def extract(unets: Path, out: Path, **options):
    return extract_lora(unets / "student.safetensors", unets / "base.safetensors", out, **options)


def load_into_base(unets: Path, lora: Path) -> UNet2DConditionModel:
    """The base's UNet with a LoRA fused by diffusers."""
    unet = make_unet()
    unet.load_state_dict(load_file(unets / "base.safetensors"))
    layers, alphas = StableDiffusionXLPipeline.lora_state_dict(str(lora), unet_config=unet.config)
    StableDiffusionXLPipeline.load_lora_into_unet(layers, alphas, unet)
    unet.fuse_lora()
    unet.unload_lora()
    return unet


def test_at_full_rank_diffusers_loads_the_student_but_for_biases_and_norms(unets: Path, tmp_path: Path):
    table = extract(unets, tmp_path / "lora.safetensors", rank=FULL)
    unet = load_into_base(unets, tmp_path / "lora.safetensors")
    student, base = (load_file(unets / f"{name}.safetensors") for name in ("student", "base"))
    layers = {f"{n}.weight" for n, module in unet.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)}
    for name, weight in unet.state_dict().items():
        expected = student if name in layers else base
        torch.testing.assert_close(weight, expected[name], rtol=0, atol=2e-6, msg=name)
    assert set(table.index[table["rank"] > 0]) == layers
    outside = [student[name] - base[name] for name in table.index if name not in layers]
    assert (table.error**2).sum() == pytest.approx(sum(float(x.square().sum()) for x in outside), rel=1e-5)


@pytest.mark.parametrize(("rank", "kept_energy"), [(3, 1.0), (FULL, 0.7)])
def test_each_layer_is_the_truncated_svd(unets: Path, tmp_path: Path, rank: int, kept_energy: float):
    table = extract(unets, tmp_path / "lora.safetensors", rank=rank, kept_energy=kept_energy)
    loaded = load_into_base(unets, tmp_path / "lora.safetensors").state_dict()
    student, base = (load_file(unets / f"{name}.safetensors") for name in ("student", "base"))
    for name, row in table[table["rank"] > 0].iterrows():
        difference = student[name] - base[name]
        U, S, V = torch.linalg.svd(difference.flatten(1), full_matrices=False)
        kept = S.square().cumsum(0) / S.square().sum()
        r = min(rank, len(S)) if kept_energy == 1 else int((kept < kept_energy).sum()) + 1
        assert row["rank"] == r
        assert row.difference == pytest.approx(float(S.norm()), rel=1e-5)
        assert row.error == pytest.approx(float(S[r:].norm()), rel=1e-3, abs=1e-5)
        best = (U[:, :r] * S[:r] @ V[:r]).reshape(difference.shape)
        torch.testing.assert_close(loaded[name] - base[name], best, rtol=0, atol=1e-4)


def test_names_are_those_of_comfyui(unets: Path, tmp_path: Path):
    extract(unets, tmp_path / "lora.safetensors", rank=2)
    names = set(load_file(tmp_path / "lora.safetensors"))
    block = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0"
    for layer in (  # keys of `model_lora_keys_unet` in ComfyUI's comfy/lora.py, which reads other names without `_`
        f"{block}_attn1_to_out_0",
        f"{block}_ff_net_0_proj",
        "lora_unet_mid_block_resnets_0_time_emb_proj",
        "lora_unet_up_blocks_0_upsamplers_0_conv",
        "lora_unet_conv_in",
        "lora_unet_time_embedding_linear_1",
        "lora_unet_label_emb_0_2",
    ):
        assert {f"{layer}.lora_up.weight", f"{layer}.lora_down.weight"} <= names
    assert {name.rsplit(".", 2)[1] for name in names} == {"lora_up", "lora_down"}  # no alpha: scale 1


def test_transfer_adds_the_difference(unets: Path, tmp_path: Path):
    student, base, other = (load_file(unets / f"{name}.safetensors") for name in ("student", "base", "other"))
    student, base = ({name: weight.half() for name, weight in weights.items()} for weights in (student, base))
    other = {name: weight if name.startswith("mid") else weight.bfloat16() for name, weight in other.items()}
    files = [tmp_path / f"{number}.safetensors" for number in range(3)]
    for weights, file in zip((student, base, other), files, strict=True):
        save_file(weights, file)
    transfer(*files, tmp_path / "out.safetensors")
    written = load_file(tmp_path / "out.safetensors")
    assert written.keys() == other.keys()
    for name, weight in other.items():
        expected = (weight.float() + (student[name].float() - base[name].float())).to(weight.dtype)
        torch.testing.assert_close(written[name], expected, rtol=0, atol=0)


def test_shards_of_a_pipeline_are_read_in_half_precision(unets: Path, tmp_path: Path):
    make_repository(tmp_path / "sdxl")
    unet = UNet2DConditionModel.from_pretrained(tmp_path / "sdxl/unet", variant="fp16", torch_dtype=torch.float16)
    (tmp_path / "sdxl/unet/diffusion_pytorch_model.fp16.safetensors").unlink()
    unet.save_pretrained(tmp_path / "sdxl/unet", variant="fp16", max_shard_size="50KB")
    assert len(list((tmp_path / "sdxl/unet").glob("*-of-*.safetensors"))) > 1
    base = unets / "base.safetensors"
    transfer(unets / "student.safetensors", base, tmp_path / "sdxl", tmp_path / "out.safetensors")
    with safe_open(tmp_path / "out.safetensors", "pt") as opened:
        assert {opened.get_slice(name).get_dtype() for name in opened.keys()} == {"F16"}  # noqa: SIM118
    extract_lora(tmp_path / "out.safetensors", tmp_path / "sdxl", tmp_path / "lora.safetensors", rank=FULL)
    fused = load_into_base(unets, tmp_path / "lora.safetensors").conv_in.weight  # the same difference, rounded
    student = load_file(unets / "student.safetensors")["conv_in.weight"]
    torch.testing.assert_close(fused, student, rtol=0, atol=5e-4)


def test_what_is_refused(unets: Path, tmp_path: Path):
    base, out = unets / "base.safetensors", tmp_path / "out.safetensors"
    weights = load_file(base)
    save_file(weights | {"conv_in.weight": weights["conv_in.weight"][:, :3].clone()}, tmp_path / "narrow.safetensors")
    save_file(weights | {"conv_in.weight": weights["conv_in.weight"] * torch.nan}, tmp_path / "nan.safetensors")
    with pytest.raises(CheckpointError, match=r"conv_in\.weight.*\(8, 3, 3, 3\)"):
        extract_lora(base, tmp_path / "narrow.safetensors", out)
    with pytest.raises(CheckpointError, match=r"conv_in\.weight.*\(8, 3, 3, 3\)"):
        transfer(base, base, tmp_path / "narrow.safetensors", out)
    with pytest.raises(CheckpointError, match=r"nan\.safetensors.*conv_in\.weight"):
        transfer(tmp_path / "nan.safetensors", base, base, out)
    with pytest.raises(ValueError, match="same weights"):
        extract_lora(base, base, out)
    with pytest.raises(ValueError, match="Hyper-SDXL"):  # before anything is downloaded
        transfer("hyper-sdxl", base, base, out)
    for options in ({"rank": 0}, {"kept_energy": 0.0}, {"kept_energy": 1.1}):
        with pytest.raises(ValueError, match="rank is"):
            extract(unets, out, **options)
    assert not out.exists()


def test_commands(unets: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    student, base, other = (str(unets / f"{name}.safetensors") for name in ("student", "base", "other"))
    lora, moved = tmp_path / "new/lora.safetensors", tmp_path / "new/moved.safetensors"
    assert main(["extract-lora", student, "--base", base, "--rank", str(FULL), "--out", str(lora)]) == 0
    assert main(["transfer", student, "--base", base, "--other", other, "--out", str(moved)]) == 0
    assert lora.with_suffix(".png").read_bytes()[:4] == b"\x89PNG"
    assert str(moved) in capsys.readouterr().out
    assert main(["extract-lora", student, "--base", base, "--rank", "0"]) == 1
    assert "rank is 0" in capsys.readouterr().err
