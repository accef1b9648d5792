"""What the words in the report's tables mean."""

from __future__ import annotations

# Shown below the tables, in this order: what every reader needs first.
TERMS = {
    "a [b, c]": (
        "an estimate a with its 95 % interval from b to c: where it would lie with new seeds and "
        "new samples of the same kinds. With one seed, with new samples alone."
    ),
    "values of a set": (
        "diversities and other numbers of which there is one for all samples: the interval is over "
        "seeds alone, for this set of samples. With one seed there is none."
    ),
    "not separable": (
        "the interval of a difference holds 0: this comparison cannot tell the two apart. It does "
        "not say that they are equal."
    ),
    "Change from the base": (
        "tuned minus base, for the same sample and the same noise, then the mean."
    ),
    "Against the best other variant": (
        "this variant minus the one with the best estimate among the others, for the same sample "
        "and noise."
    ),
    "Tuned, interquartile mean": (
        "the mean of the middle half of the values, which single extreme samples do not move."
    ),
    "Probability of better than base": (
        "how likely a tuned sample is better than the base's with the same noise; ties count half. "
        "0.5 where training changed nothing."
    ),
    "Change, each seed": "the mean change of every seed alone, to see whether seeds agree.",
    "group/value": "the value over the samples of that group alone.",
    "kl/...": (
        "the distance of the tuned model from the base along its own samples. Neither direction is "
        "better in itself; in trade-offs less of it, and more of a diversity, counts as cheaper."
    ),
    "Pareto front": (
        "the variants that no other beats in both respects, by their estimates. Intervals are not "
        "considered."
    ),
}
