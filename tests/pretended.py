"""A pretended device, `pretend:0`: CPU numbers behind tensors whose `.device` is not the CPU's.

What a GPU would refuse is refused: an operation on tensors of two devices, `numpy()`. What a GPU would wait for is
counted with its place: numbers read back (`wait`), and tensors that are copied to the device (`copy`). Everything else
is computed by the CPU, so a run must end in the same weights.

Torch calls the interface experimental; it is pinned to the versions that this was tried on. A process that has called
`set_up` keeps the device until it ends, so tests do it in a process of their own.
"""

import collections
import functools
import json
import os
import sys
import traceback
from pathlib import Path

import torch
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from rewardft.testing import run_recipe

ROOT = Path(__file__).resolve().parents[1]
NAME = "pretend"
TRIED_ON = ("2.13",)
aten = torch.ops.aten
# These take tensors of both devices, as on a GPU: copies, and indices that lie on the CPU.
MIXING = {aten._to_copy.default, aten.copy_.default, aten.index.Tensor, aten.index_put_.default}
MIXING |= {aten._index_put_impl_.default, aten.set_.source_Tensor}
INDEXING = {aten.index.Tensor, aten.index_put_.default, aten._index_put_impl_.default}
# The size or the value of what they give is known to the host only when the device is done.
WAITING = {aten._local_scalar_dense.default, aten.nonzero.default, aten._unique2.default}
WAITING |= {aten.equal.default, aten.is_nonzero.default, aten.masked_select.default}


def obstacle():
    """Why the device cannot be had here; None if it can."""
    version = ".".join(torch.__version__.split(".")[:2])
    if not hasattr(backend_registration, "_setup_privateuseone_for_python_backend"):
        return f"torch {torch.__version__} has no `_setup_privateuseone_for_python_backend`"
    if version not in TRIED_ON:
        return f"torch {torch.__version__}: the pretended device was tried on {', '.join(TRIED_ON)}"
    return None


def place():
    """'file:line function' of the innermost line of this project; 'autograd' where there is none."""
    # Not by `traceback`, which reads the source of every frame: a run asks thousands of times.
    frame = sys._getframe(1)
    while frame is not None:
        if (name := own_name(frame.f_code.co_filename)) is not None:
            return f"{name}:{frame.f_lineno} {frame.f_code.co_name}"
        frame = frame.f_back
    return "autograd"


@functools.cache
def own_name(file):
    """What the project calls a file; None for one that is not its own, and for this one."""
    path = Path(file)
    if path == Path(__file__) or "site-packages" in path.parts or "torch" in path.parts:
        return None
    if "/lib/python" in file or file.startswith("<"):
        return None
    return path.relative_to(ROOT) if path.is_relative_to(ROOT) else path


class Ledger:
    """What was waited for and copied: `(kind, place)` -> how often."""

    def __init__(self):
        self.counts = collections.Counter()

    def note(self, kind):
        self.counts[kind, place()] += 1

    def take(self):
        counts, self.counts = self.counts, collections.Counter()
        return counts


LEDGER = Ledger()


class Pretended(torch.Tensor):
    """`numbers`: the CPU tensor behind it."""

    @staticmethod
    def __new__(cls, numbers):
        wrapper = torch.Tensor._make_wrapper_subclass(
            cls,
            numbers.size(),
            strides=numbers.stride(),
            storage_offset=numbers.storage_offset(),
            dtype=numbers.dtype,
            device=torch.device(NAME, 0),
            requires_grad=False,
        )
        wrapper.numbers = numbers
        # A conjugate is a view with a mark that torch heeds above this class alone: below it, an
        # operation would take the numbers as they lie in memory.
        torch._C._set_conj(wrapper, numbers.is_conj())
        torch._C._set_neg(wrapper, numbers.is_neg())
        return wrapper

    def __repr__(self):
        return f"Pretended({self.numbers})"

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return carry_out(func, args, kwargs or {})

    @property
    def data(self):
        return torch.Tensor.data.__get__(self)

    @data.setter
    def data(self, other):
        """Torch exchanges what is in C++ alone: without this the numbers would stay the old ones."""
        torch.Tensor.data.__set__(self, other)
        self.numbers = other.numbers

    def tolist(self):
        LEDGER.note("wait")
        return self.numbers.tolist()

    def numpy(self, **options):
        raise TypeError(f"can't convert a {NAME} tensor to numpy at {place()}; use .cpu() first")

    def __array__(self, *arguments, **options):
        return self.numpy()


class Watch(TorchDispatchMode):
    """Sees the operations that have no tensor of the device yet: new ones, and copies to it."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return carry_out(func, args, kwargs or {})


def is_pretended(value):
    named = isinstance(value, torch.device) and value.type == NAME
    return named or (isinstance(value, str) and value.startswith(NAME))


def carry_out(func, args, kwargs):
    """One operation, on the numbers; its result is on the device if an operand or `device=` is."""
    leaves, form = tree_flatten((args, kwargs))
    tensors = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
    ours = [tensor for tensor in tensors if isinstance(tensor, Pretended)]
    refuse_two_devices(func, args, tensors, ours)
    to_device = bool(ours)
    if (target := kwargs.get("device")) is not None:
        to_device = is_pretended(target)
    if func is aten.copy_.default:
        to_device = isinstance(args[0], Pretended)
    note_exchange(func, args, tensors, ours, to_device)
    if not ours and not to_device:
        return func(*args, **kwargs)
    given, options = tree_unflatten([bare(leaf) for leaf in leaves], form)
    result = func(*given, **options)
    # In place: the operand itself is the result, not a new wrapper around its numbers.
    known = {id(tensor.numbers): tensor for tensor in ours}

    def wrapped(value):
        if not isinstance(value, torch.Tensor) or not to_device:
            return value
        return known[id(value)] if id(value) in known else Pretended(value)

    return tree_map(wrapped, result)


def bare(value):
    if isinstance(value, Pretended):
        return value.numbers
    return torch.device("cpu") if is_pretended(value) else value


def refuse_two_devices(func, args, tensors, ours):
    """As a GPU does; a number without dimensions may lie on the CPU."""
    others = [t for t in tensors if not isinstance(t, Pretended) and t.dim() > 0]
    if func in INDEXING and len(args) > 2:
        others = [args[2]] if args[2].dim() > 0 and not isinstance(args[2], Pretended) else []
        others = others if isinstance(args[0], Pretended) else []
    elif func in MIXING:
        return
    if ours and others:
        shown = ", ".join(f"{tuple(t.shape)} on {t.device}" for t in tensors)
        raise RuntimeError(f"expected all tensors on one device at {place()}: {func} got {shown}")


def note_exchange(func, args, tensors, ours, to_device):
    """Reads and copies between host and device."""
    if ours and func in WAITING:
        LEDGER.note("wait")
    if ours and func in INDEXING:
        indices = [index for index in args[1] if index is not None]
        # As many rows as are true; one number for all of them is put in by a mask, without counting.
        filled = func is not aten.index.Tensor and args[2].numel() == 1
        if any(index.dtype == torch.bool for index in indices) and not filled:
            LEDGER.note("wait")
        if any(not isinstance(index, Pretended) for index in indices):
            LEDGER.note("copy")
    if func is aten._to_copy.default and bool(ours) != to_device:
        LEDGER.note("copy" if to_device else "wait")
    if func is aten.copy_.default and len(ours) == 1:
        LEDGER.note("copy" if to_device else "wait")


def set_up():
    """Make the device known to torch; once a process."""
    backend_registration._setup_privateuseone_for_python_backend(NAME)
    # Asked for by autocast, also where that is switched off.
    getattr(torch, NAME).get_amp_supported_dtype = lambda: [torch.bfloat16, torch.float16]
    # A parameter that moves becomes a new one: the two kinds of tensor cannot share an object.
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    library = torch.library.Library("aten", "IMPL")
    # What torch makes itself, out of sight of `Watch`: in the backward pass and below autograd.
    library.impl("empty_strided", empty_strided, "PrivateUse1")
    library.impl("empty.memory_format", empty, "PrivateUse1")
    library.impl("_copy_from", copy_from, "PrivateUse1")
    return library


def empty_strided(size, stride, dtype=None, layout=None, device=None, pin_memory=None):
    return Pretended(torch.empty_strided(size, stride, dtype=dtype, device="cpu"))


def empty(size, dtype=None, layout=None, device=None, pin_memory=None, memory_format=None):
    return Pretended(torch.empty(size, dtype=dtype, device="cpu"))


def copy_from(source, target, non_blocking=False):
    bare(target).copy_(bare(source))
    return target


class OnDevice:
    """An accelerator that says it has the pretended device."""

    def __init__(self, accelerator):
        self.accelerator, self.device = accelerator, torch.device(NAME, 0)

    def __getattr__(self, name):
        return getattr(self.accelerator, name)


def run_on_device(path, out, *overrides):
    """Run a recipe on the device; returns its steps' ledgers, of all that comes after the first optimizer step."""
    from torch.optim.optimizer import register_optimizer_step_post_hook

    from rewardft.engine import train

    steps, start = [], train.start_accelerator
    # Between two updates lies one whole step of the loop; before the first is also the start-up.
    hook = register_optimizer_step_post_hook(lambda *_: steps.append(LEDGER.take()))
    train.start_accelerator = lambda *arguments: OnDevice(start(*arguments))
    try:
        with Watch():
            finished = run_recipe(path, out, *overrides)
    finally:
        hook.remove()
        train.start_accelerator = start
    return finished, steps[1:]


def run_jobs(folder):
    """In a process of its own: run `jobs.json`, `[[name, recipe, overrides], ...]`, and write `found.json`."""
    torch.set_num_threads(1)
    folder = Path(folder)
    kept = set_up()  # noqa: F841 (as long as the library lives)
    found = {}
    for name, recipe, overrides in json.loads((folder / "jobs.json").read_text()):
        LEDGER.take()
        try:
            _, steps = run_on_device(recipe, folder / name, *overrides)
            exchanges = [[[*key, count] for key, count in step.items()] for step in steps]
            found[name] = {"error": None, "steps": exchanges}
        except Exception:
            found[name] = {"error": traceback.format_exc(), "steps": []}
    (folder / "found.json").write_text(json.dumps(found))
    # Not by way of torch's clean-up, which aborts where autograd has made a thread for the device.
    os._exit(0)
