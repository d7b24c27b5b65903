"""The peer in PyTorch: what benchmarks compare with computes what the releases compute."""

import json
import lzma
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from benchmarks.torch_peer import NAFNet, Restormer, make_local  # noqa: E402
from benchmarks.torch_peer.tlc import LocalAvgPool2d  # noqa: E402

NETWORKS = {"nafnet": NAFNet, "restormer": Restormer}
GOLDEN = (
    *("nafnet_a", "nafnet_b"),
    *("restormer_withbias", "restormer_biasfree", "restormer_gray", "restormer_dualpixel"),
)
TESTS = Path(__file__).parent
FLOAT32_ERROR = json.loads((TESTS / "golden/float32_error.json").read_text())
PUBLISHED = [
    entry
    for entry in json.loads(lzma.decompress((TESTS / "data/published.json.xz").read_bytes()))
    if entry["network"] in NETWORKS
]


@pytest.fixture
def network(golden):
    """A network of a golden file, local or not."""

    def make(name, mode):
        meta, _, _, tensors = golden(name)
        model = NETWORKS[meta["model"]](**meta["config"])
        model.load_state_dict({key: torch.from_numpy(x) for key, x in tensors.items()})
        return make_local(model, tuple(meta["train_size"])) if mode == "local" else model

    return make


@pytest.fixture
def image(golden):
    """The picture of a golden file, NCHW."""

    def read(name):
        nchw = torch.from_numpy(golden(name).image).permute(0, 3, 1, 2)
        # Not `contiguous`: one channel is so already, and still taken for channels_last.
        return nchw.clone(memory_format=torch.contiguous_format)

    return read


@pytest.mark.parametrize("mode", ["global", "local"])
@pytest.mark.parametrize("name", GOLDEN)
@torch.inference_mode()
def test_numbers_of_the_release(golden, network, image, name, mode):
    """As close as we ourselves have to be."""
    ours = network(name, mode)(image(name)).numpy()
    exact = np.moveaxis(golden(name).expected[mode], -1, 1)
    error = np.abs(ours - exact).max() / max(1, exact.std())
    assert ours.dtype == np.float32 and ours.shape == exact.shape
    assert error <= max(1e-5, 3 * FLOAT32_ERROR[name][mode])


@pytest.mark.parametrize("name", GOLDEN)
def test_windows_of_the_release(golden, network, name):
    model = network(name, "local")
    sites = {
        name.removesuffix(".attend"): list(module.kernel)
        for name, module in model.named_modules()
        if hasattr(module, "kernel")
    }
    assert sites == golden(name).meta["windows"]


@pytest.mark.parametrize("published", PUBLISHED, ids=lambda entry: entry["files"][0])
def test_published_files_fit(published):
    with torch.device("meta"):
        model = make_local(NETWORKS[published["network"]](**published["config"]))
    shapes = {key: list(tensor.shape) for key, tensor in model.state_dict().items()}
    assert shapes == published["tensors"]


@pytest.mark.parametrize("name", ["nafnet_a", "restormer_biasfree"])
@torch.inference_mode()
def test_neither_batch_nor_layout_changes_numbers(network, image, name):
    model, one = network(name, "local"), image(name)[:1]
    batch = torch.cat([one.flip(-1), one])
    alone = model(one)
    torch.testing.assert_close(model(batch)[1:], alone, rtol=1e-5, atol=1e-4)
    model, batch = (x.to(memory_format=torch.channels_last) for x in (model, batch))
    torch.testing.assert_close(model(batch)[1:], alone, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("kernel", [(9, 4), (40, 7), (5, 90), (48, 48)])
def test_bfloat16_mean_errs_only_in_its_rounding(kernel):
    x = torch.rand(2, 3, 32, 50, generator=torch.Generator().manual_seed(0)).bfloat16()
    pool = LocalAvgPool2d(kernel)
    ours, exact = pool(x), pool(x.float())
    assert ours.dtype == torch.bfloat16
    eps = torch.finfo(torch.bfloat16).eps
    torch.testing.assert_close(ours.float(), exact, rtol=eps, atol=0)
