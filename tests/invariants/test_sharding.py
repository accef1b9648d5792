"""A base that is spread over two processes trains the same adapter, and neither process holds all of it."""

import itertools
import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.utils._pytree import tree_flatten, tree_unflatten

from rewardft.errors import CheckpointError, ComponentError, RecipeError
from rewardft.plugins.resolve import open_recipe
from rewardft.policy.sharding import blocks_of, shard_base
from rewardft.recipe.recipe import load_recipe
from tests import processes
from tests.shipped.text2image import checkpoints

ROOT = Path(__file__).resolve().parents[2]
RECIPE = """
plugins: [text2image, rewards, ddpo]
seed: 3
model: {{use: {family}, weights: {weights}, height: 16, width: 16}}
sampler: {{use: ddim, steps: 3, eta: 1.0}}
data: {{use: prompts, path: shipped, held_out: 4, batch_size: 2}}
rewards: [{{use: mean_brightness}}]
algorithm: {{use: drtune, train_steps: 2, early_stop: 1}}
adapter: {{kind: lora, rank: 2}}
optimizer: {{use: adamw, lr: 1e-2}}
train: {{steps: 2, log_every: 1}}
evaluate: {{samples: 2, data: {{split: val}}}}
"""
CASES = {
    "drtune": [],
    "draft": ["algorithm={use: draft}"],
    "checkpointing": ["train.checkpointing=true"],
    "kl": ["regularizers=[{use: kl, weight: 0.1}]"],
    "ddpo": ["algorithm={use: ddpo, group_by: prompt, min_count: 2}"],
    "one_pass": ["algorithm={use: ddpo}", "train.micro_batch=1"],
    "bf16": ["train.precision=bf16", "model.dtype=bf16"],
}
QUICK = [("stable_diffusion", "drtune"), ("sd3", "kl"), ("sd3", "one_pass")]
EVERY = [(family, name) for family in ("stable_diffusion", "sd3") for name in CASES]
# `whole` adds up gradients in the order that sharding brings with it, see `marked`; `plain` is what users run.
PATIENCE = 3000  # seconds, of a busy machine
KINDS = {
    "plain": [],
    "whole": [],
    "sharded": ["train.shard=true"],
    "kept": ["train.shard=true", "train.keep_for_rollouts=true"],
}


class Through(torch.autograd.Function):
    """Its inputs."""

    @staticmethod
    def forward(ctx, *values):
        return values

    @staticmethod
    def backward(ctx, *gradients):
        return gradients


def pass_through(module, arguments, options):
    """A hook: what enters a module goes through one function of autograd, as `fully_shard` has it."""
    leaves, tree = tree_flatten((arguments, options))
    learning = [i for i, leaf in enumerate(leaves) if getattr(leaf, "requires_grad", False)]
    if torch.is_grad_enabled() and learning:
        for i, leaf in zip(learning, Through.apply(*(leaves[i] for i in learning))):
            leaves[i] = leaf
    return tree_unflatten(leaves, tree)


def marked(attach):
    """`attach`, then `pass_through` at each block: where a tensor is used by a block twice and elsewhere once, the
    gradients of the block are added to each other first, and a sum of three numbers rounds by its order."""

    def attached(model, *arguments):
        adapter = attach(model, *arguments)
        for block in [*blocks_of(model.trainable), model.trainable]:
            block.register_forward_pre_hook(pass_through, with_kwargs=True)
        return adapter

    return attached


def carry_out(folder):
    """One of the processes: every job in every kind."""
    import torch.distributed as dist
    from accelerate import Accelerator
    from torch.distributed.tensor import DTensor

    from rewardft.engine import session
    from rewardft.testing import run_recipe

    torch.set_num_threads(1)
    accelerator = Accelerator(cpu=True)
    held, gathered = [], []
    shard, attach, gather = session.shard_base, session.attach, dist.all_gather_single

    def watched(module, *arguments):
        shard(module, *arguments)
        parts = [p.to_local() if isinstance(p, DTensor) else p for p in module.parameters()]
        held.append(sum(p.numel() * p.element_size() for p in parts))

    def counted(*arguments, **options):
        gathered.append(1)
        return gather(*arguments, **options)

    session.shard_base, dist.all_gather_single = watched, counted
    answers = {}
    for name, path, sets in json.loads((folder / "jobs.json").read_text()):
        answer = answers[name] = {"calls": [], "gathers": []}
        for kind, own in KINDS.items():
            gathered.clear()
            session.attach = marked(attach) if kind == "whole" else attach
            run = run_recipe(path, folder / name / kind, *sets, *own)
            answer["calls"].append(run.summary["denoiser_forwards"])
            answer["gathers"].append(len(gathered))
        answer["bytes"] = held[-1]
    (folder / f"answers-{accelerator.process_index}.json").write_text(json.dumps(answers))
    accelerator.end_training()


def run_all(folder, wanted, count=2):
    """Each case in `count` processes; what each of them noted."""
    jobs = []
    for family in {family for family, _ in wanted}:
        checkpoints.FAMILIES[family](folder / family)
        path = folder / f"{family}.yaml"
        path.write_text(RECIPE.format(family=family, weights=folder / family))
        names = [name for own, name in wanted if own == family]
        jobs += [[f"{family}-{name}", str(path), CASES[name]] for name in names]
    return run_jobs(folder, jobs, count)


def run_jobs(folder, jobs, count=2):
    """`jobs`: [name, recipe, overrides]."""
    (folder / "jobs.json").write_text(json.dumps(jobs))
    processes.run_ranks(carry_out, folder, count=count, seconds=PATIENCE)
    return [json.loads((folder / f"answers-{rank}.json").read_text()) for rank in range(count)]


def check(folder, answers, family, name):
    """The same adapter, the same number of calls everywhere, an equal part of the base in each process."""
    job, count = f"{family}-{name}", len(answers)
    network = checkpoint_size(folder / family)
    show(folder / job, answers, job, network)
    assert difference(folder / job, "whole", "sharded") == 0
    assert difference(folder / job, "sharded", "kept") == 0
    # One call more on one rank would wait forever, so all ranks make the same number.
    assert len({calls for answer in answers for calls in answer[job]["calls"]}) == 1
    for answer in answers:
        _, none, each_call, once = answer[job]["gathers"]
        # One pass takes its gradients while it rolls out: there is nothing to keep a block for.
        assert none < once and (once == each_call if name == "one_pass" else once < each_call)
    if name != "bf16":
        for answer in answers:
            # A part of it, without the buffers that the file holds too, and the whole adapter.
            assert 0.8 * network / count < answer[job]["bytes"] < 1.2 * network / count


def show(folder, answers, job, network):
    """A row of a table, for `pytest -rP`: what differs from a plain and from a marked run, bytes and calls."""
    plain, whole = (f"{difference(folder, one, 'sharded'):.1e}" for one in ("plain", "whole"))
    held = " ".join(str(answer[job]["bytes"]) for answer in answers)
    calls = " ".join(str(answer[job]["calls"][-1]) for answer in answers)
    gathers = " ".join(str(answer[job]["gathers"][2:]) for answer in answers)
    print(f"| {job} | {plain} | {whole} | {network} | {held} | {calls} | {gathers} |")


def difference(folder, one, other):
    """The largest of any weight of two adapters, which have learned something."""
    own, others = (
        load_file(folder / kind / "adapter" / "adapter_model.safetensors") for kind in (one, other)
    )
    assert any(bool(value.any()) for n, value in own.items() if "lora_B" in n)
    return max(float((own[n] - others[n]).abs().max()) for n in own)


def test_a_sharded_base_trains_the_same_adapter(tmp_path):
    answers = run_all(tmp_path, QUICK)
    for family, name in QUICK:
        check(tmp_path, answers, family, name)


@pytest.mark.slow
@pytest.mark.timeout(PATIENCE)
def test_a_sharded_base_trains_the_same_adapter_in_every_way(tmp_path):
    answers = run_all(tmp_path, EVERY)
    for family, name in EVERY:
        check(tmp_path, answers, family, name)


@pytest.mark.slow
@pytest.mark.timeout(PATIENCE)
def test_four_processes_hold_a_quarter_each(tmp_path):
    cases = [("sd3", "drtune"), ("sd3", "ddpo")]
    answers = run_all(tmp_path, cases, count=4)
    for family, name in cases:
        check(tmp_path, answers, family, name)


# Every algorithm of the core and of the plugins for diffusion has a recipe on the toy. The others train all weights,
# or answer in words, and refuse to be sharded.
TOYS = sorted((ROOT / "recipes").glob("toy_*.yaml"))
SHORT = ["train.steps=2", "train.log_every=1", "evaluate.every=0", "save.every=0"]


@pytest.mark.slow
@pytest.mark.timeout(PATIENCE)
def test_every_algorithm_trains_the_same_adapter_on_a_sharded_base(tmp_path):
    algorithms = {load_recipe(path).algorithm.use for path in TOYS}
    assert len(algorithms) == len(TOYS) > 30
    answers = run_jobs(tmp_path, [[path.stem, str(path), SHORT] for path in TOYS])
    for job in (path.stem for path in TOYS):
        # The toy has no blocks: its base is one, and whole after the first call.
        found = {kinds: difference(tmp_path / job, *kinds) for kinds in itertools.pairwise(KINDS)}
        print(f"| {job} | {max(found.values()):.1e} | {answers[0][job]['calls'][-1]} |")
        assert max(found.values()) < 1e-6, (job, found)
        assert len({calls for answer in answers for calls in answer[job]["calls"]}) == 1, job


def carry_on(folder):
    """Two steps of four, then the other two."""
    from rewardft.testing import run_recipe

    torch.set_num_threads(1)
    path, sets = folder / "sd3.yaml", [*KINDS["sharded"], "save.every=2", "train.steps=4"]
    run_recipe(path, folder / "job" / "at_once", *sets)
    part = folder / "job" / "in_two"
    run_recipe(path, part, *sets)
    shutil.rmtree(sorted((part / "checkpoints").iterdir())[-1])
    run_recipe(path, part, *sets, resume=True)


def refuse(folder):
    """The same run with other processes."""
    from rewardft.testing import run_recipe

    sets = [*KINDS["sharded"], "save.every=2", "train.steps=4"]
    with pytest.raises(CheckpointError) as error:
        run_recipe(folder / "sd3.yaml", folder / "job" / "in_two", *sets, resume=True)
    (folder / f"refusal-{os.environ['RANK']}.txt").write_text(str(error.value))


@pytest.mark.slow
@pytest.mark.timeout(PATIENCE)
def test_a_sharded_run_goes_on_with_as_many_processes_and_no_others(tmp_path):
    checkpoints.FAMILIES["sd3"](tmp_path / "sd3")
    text = RECIPE.format(family="sd3", weights=tmp_path / "sd3")
    (tmp_path / "sd3.yaml").write_text(text)
    processes.run_ranks(carry_on, tmp_path)
    assert difference(tmp_path / "job", "at_once", "in_two") == 0
    processes.run_ranks(refuse, tmp_path, count=4)
    for rank in range(4):
        assert "2 processes" in (tmp_path / f"refusal-{rank}.txt").read_text()


def checkpoint_size(folder):
    (path,) = [
        p
        for p in Path(folder).glob("*/diffusion_pytorch_model.safetensors")
        if p.parent.name != "vae"
    ]
    return sum(value.numel() * value.element_size() for value in load_file(path).values())


def test_one_process_and_full_fine_tuning_are_refused(tmp_path):
    network = torch.nn.Linear(2, 2)
    with pytest.raises(ComponentError) as error:
        shard_base(network, [], torch.device("cpu"))
    assert str(error.value) == (
        "train.shard: true spreads the base over several processes, and this run has one. Start it "
        "with a launcher (docs/scaling.md), or leave `shard` out."
    )
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE.format(family="sd3", weights="x"))
    with pytest.raises(RecipeError) as refused:
        load_recipe(path, ["adapter.kind=full", "train.shard=true"])
    assert (
        "train.shard: only a frozen base is sharded, and adapter.kind 'full' trains it. Train an "
        "adapter (`kind: lora`), or leave `shard` out."
    ) in str(refused.value)


def test_a_base_is_kept_only_where_it_is_sharded(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE.format(family="sd3", weights="x"))
    with pytest.raises(RecipeError) as refused:
        load_recipe(path, ["train.keep_for_rollouts=true"])
    assert (
        "train.keep_for_rollouts: only a sharded base is gathered for a rollout. Set "
        "`train.shard: true` beside it, or leave it out."
    ) in str(refused.value)


def test_what_answers_with_as_many_calls_as_it_needs_is_refused():
    path = ROOT / "recipes" / "posert_mini.yaml"
    with pytest.raises(RecipeError) as refused:
        open_recipe(path, ["train.shard=true"])
    assert str(refused.value).endswith(
        "train.shard: pose_lm reads one token after the other until all answers of a process have "
        "ended, so processes would call it unequally often and wait for each other forever. Leave "
        "`shard` out."
    )


def test_blocks_come_before_what_holds_them():
    class Inner(torch.nn.Linear):
        pass

    class Outer(torch.nn.Sequential):
        _no_split_modules = ["Inner", "Outer"]

    net = Outer(Inner(2, 2), torch.nn.Sequential(Outer(Inner(2, 2))))
    order = [type(block).__name__ for block in blocks_of(net)]
    assert order == ["Inner", "Outer", "Inner"]
    assert list(blocks_of(torch.nn.Linear(2, 2))) == []
