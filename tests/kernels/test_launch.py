"""The launcher on a driver of host memory: arguments, modules, contexts, and what is refused."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from helpers.kernel_files import image_of
from helpers.stub_kernel import memory, reference_kernel, request_of, unpack
from smalti_kernels.errors import DriverUnavailable, NoMatchingKernel, SamplingError
from smalti_kernels.impl import abi, reference
from smalti_kernels.impl.abi import FLAG_GUIDED, FLAG_LOGPROB, FLAG_TRUNCATED, KERNEL_NAME, VARIANTS
from smalti_kernels.impl.cuda import draw as cuda
from smalti_kernels.impl.cuda import launch, prebuilt
from smalti_kernels.impl.cuda.launch import Kernels, Pointers, Shape, load_kernels
from smalti_kernels.spec import tables

OPTIONAL = {"uncond": FLAG_GUIDED, "keep": FLAG_TRUNCATED, "logprob": FLAG_LOGPROB}


@pytest.mark.parametrize(
    ("variant", "flags"),
    [
        pytest.param(variant, flags, id=f"{variant.name}-{flags}")
        for variant in VARIANTS
        for flags in ((2, 7) if variant.held else (0, 1, 4))
    ],
)
def test_every_argument_of_every_variant(stub, kernels, variant, flags):
    addresses = {name: 0x10000 * (index + 1) for index, name in enumerate(Pointers._fields)}
    given = {name: 0 if name in OPTIONAL and not flags & OPTIONAL[name] else a for name, a in addresses.items()}
    stride = variant.vocabulary + 32
    shape = Shape(variant.logits, 1000, variant.vocabulary, stride, 256, 16)
    kernels.draw(Pointers(**given), shape, guidance=2.5, flags=flags, stream=0x5EED)

    (launched,) = stub.launches()
    assert launched["grid"] == f"{abi.programs_for(1000, variant, 4)},1,1"
    assert launched["block"] == f"{32 * variant.num_warps},1,1"
    assert launched["shared"] == str(16 * variant.num_warps)
    assert launched["stream"] == "0x5eed"
    values = unpack(bytes.fromhex(launched["arguments"]))
    for name, value in given.items():
        passed = values.pop(name)
        # What is not read still is the address of something: a kernel may load before it selects.
        assert passed == value if value else passed in addresses.values(), name
    assert memory(values.pop("tables"), (tables.TABLE_WORDS,), np.int32).tolist() == tables.packed_tables().tolist()
    assert values == {
        "guidance": 2.5 if flags & FLAG_GUIDED else 1.0,
        "rows": 1000,
        "vocabulary": variant.vocabulary,
        "stride": stride,
        "length": 256,
        "width": 16,
        "flags": flags,
    }
    assert stub.image == image_of("sm_80", variant.name)
    assert stub.calls("cuModuleGetFunction") == [KERNEL_NAME]


@pytest.mark.parametrize("target", ["sm_75", "sm_86", "sm_120", "ptx_80"])
def test_the_committed_kernel_is_what_the_driver_gets(stub, target):
    stub.machine(capability=int(target.partition("_")[2]), version=13010)
    if target == "ptx_80":
        stub.machine(capability=100, version=13010)
    opened = stub.driver()
    kernels = Kernels(opened, opened.primary_context(0), opened.device(0))
    variant = abi.variant_for("fp16", 1024, 0)
    kernels.prepare(variant)
    assert kernels.target.name == target
    assert stub.image == prebuilt.read_image(prebuilt.find_entry(target, variant.name))


def test_everything_on_the_device_of_another_library(stub, kernels):
    """A caller's addresses, stream and context: only the launch is ours, and what it draws stays on the device."""
    request = request_of(vocabulary=300, logprob=True)
    arrays, shape, flags = cuda.host_arrays(request)
    opened = kernels.driver
    stub.on_launch(reference_kernel(stub))
    with opened.entered(kernels.context):
        addresses = {name: opened.allocate(array.nbytes) for name, array in arrays.items()}
        for name, array in arrays.items():
            opened.upload(addresses[name], array.ctypes.data, array.nbytes, 0x77)
    done = len(stub.log)
    kernels.draw(Pointers(**addresses), shape, flags=flags, stream=0x77)
    queued = Counter(line.partition(" ")[0] for line in stub.log[done:])
    assert queued["cuLaunchKernel"] == 1
    # Apart from the tables, which come once, nothing is copied, and the caller's stream is not waited for.
    assert not {"cuMemcpyDtoHAsync_v2", "cuStreamCreate"} & set(queued)
    assert "0x77" not in stub.calls("cuStreamSynchronize")
    (launched,) = stub.launches()
    assert launched["stream"] == "0x77"
    drawn = reference.draw(request)
    assert np.array_equal(memory(addresses["tokens"], drawn.tokens.shape, np.int32), drawn.tokens)
    assert np.array_equal(memory(addresses["logprob"], (shape.rows,), np.int32), drawn.logprob)
    done = len(stub.log)
    kernels.draw(Pointers(**addresses), shape, flags=flags, stream=0x77)
    again = [line.partition(" ")[0] for line in stub.log[done:]]
    assert again == ["cuCtxPushCurrent_v2", "cuLaunchKernel", "cuCtxPopCurrent_v2"]


@pytest.mark.parametrize(
    ("bits", "says"),
    [
        (abi.ERROR_NAN, "logits contain NaN; "),
        (abi.ERROR_NAN | abi.ERROR_GUIDED, "guided logits contain NaN; "),
        (abi.ERROR_INFINITE, "logits contain +inf; "),
        (abi.ERROR_FORBIDDEN, "logits are all -inf; "),
        (abi.ERROR_RANGE, "the greatest logit over temperature must lie within +-16384; "),
        (1 << 20, "the kernel reports 0x100000, which means nothing; "),
    ],
)
def test_errors_have_words(bits, says):
    assert abi.describe_error(bits).startswith(says)


@pytest.mark.parametrize("capability", [50, 62, 70])
def test_a_gpu_without_kernels(stub, capability):
    stub.machine(capability=capability)
    opened = stub.driver()
    with pytest.raises(
        NoMatchingKernel, match=rf"Stub 70 has compute capability {capability / 10}.*sm_61.*impl=.numpy"
    ):
        Kernels(opened, opened.primary_context(0), opened.device(0))


@pytest.mark.parametrize(
    ("pointers", "shape", "guidance", "flags", "error", "says"),
    [
        ({}, {"logits": "fp64"}, 1.0, 0, NoMatchingKernel, "logits must be one of fp32, fp16, bf16"),
        ({}, {"vocabulary": 16385, "stride": 16400}, 1.0, 0, NoMatchingKernel, r"from 1 to 16384 tokens.*numpy"),
        ({}, {"vocabulary": 0}, 1.0, 0, NoMatchingKernel, "from 1 to 16384 tokens; got 0"),
        ({}, {"rows": -1}, 1.0, 0, SamplingError, "rows must be from 0"),
        ({}, {"rows": 1 << 31}, 1.0, 0, SamplingError, "rows must be from 0"),
        ({}, {"stride": 992}, 1.0, 0, SamplingError, "multiple of 16 elements and at least the vocabulary's 1000"),
        ({}, {"stride": 1004}, 1.0, 0, SamplingError, "multiple of 16 elements.*pad the rows"),
        ({}, {"width": 0}, 1.0, 0, SamplingError, "width must be at least 1"),
        ({}, {"width": 5}, 1.0, 0, SamplingError, "divide the grid's 256 positions"),
        ({}, {"length": 0}, 1.0, 0, SamplingError, "width must be at least 1"),
        ({"logits": 4104}, {}, 1.0, 0, SamplingError, "logits must lie at an address divisible by 16; got 0x1008"),
        ({"uncond": 4104}, {}, 1.0, 1, SamplingError, "uncond must lie at an address divisible by 16"),
        ({"uncond": 0}, {}, 1.0, 1, SamplingError, "uncond must be a device address; got 0"),
        ({"keep": 0}, {}, 1.0, 2, SamplingError, "keep must be a device address; got 0"),
        ({"logprob": 0}, {}, 1.0, 4, SamplingError, "logprob must be a device address; got 0"),
        ({"errors": 0}, {}, 1.0, 0, SamplingError, "errors must be a device address; got 0"),
        ({}, {}, 1e39, 1, SamplingError, "guidance must be finite"),
        ({}, {}, float("nan"), 1, SamplingError, "guidance must be finite"),
    ],
)
def test_launches_without_a_meaning_are_refused(stub, kernels, pointers, shape, guidance, flags, error, says):
    given = Pointers(**({name: 4096 for name in Pointers._fields} | pointers))
    described = Shape("fp32", 8, 1000, 1008, 256, 16)._replace(**shape)
    with pytest.raises(error, match=says):
        kernels.draw(given, described, guidance=guidance, flags=flags)
    assert not stub.launches()


def test_no_rows_are_no_launch(stub, kernels):
    kernels.draw(Pointers(*[0] * 9), Shape("fp32", 0, 1000, 1008, 256, 16))
    assert not stub.launches()
    assert not stub.calls("cuModuleLoadData")


def test_one_object_for_each_context(stub, monkeypatch):
    stub.machine(devices=2)
    opened = stub.driver()
    monkeypatch.setattr(launch, "driver", lambda: opened)
    first = load_kernels(0)
    assert first is load_kernels(0)
    # Without a device: the thread's own context if there is one, else device 0.
    assert load_kernels() is first
    stub.make_current(0xAA)
    own = load_kernels()
    assert own.context == 0xAA
    assert own.device.name == "Stub 70"
    assert own is load_kernels()
    assert load_kernels(0) is first
    assert load_kernels(1).device.ordinal == 1
    # One reference of a primary context each, however often it is asked for.
    assert Counter(stub.calls("cuDevicePrimaryCtxRetain")) == {"70": 1, "71": 1}
    with pytest.raises(DriverUnavailable, match="no CUDA device 2"):
        load_kernels(2)
