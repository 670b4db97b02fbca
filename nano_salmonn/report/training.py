# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""Sections made of training: curves of the stages, scores of BEATs, connectors, LoRA scaling, perplexities."""

from collections.abc import Mapping
from pathlib import Path

from nano_salmonn.report import published
from nano_salmonn.report.inputs import STAGES, Curve, Runs, Training
from nano_salmonn.report.plots import Panel, plot_bars, plot_panels
from nano_salmonn.report.verdicts import GROWTH_RULE, MORE_WORDS, NO, UNCLEAR, YES, Claim, judge_growth
from nano_salmonn.report.writing import Section, commands, number, picture, table, verdicts


# Bars of labels that can be read: half of them the best, half the worst.
MOST_LABELS = 40
# Names of the runs that are compared.
CONNECTORS = ("qformer2", "linear", "cross_attention")
QUERIES = ("qformer1", "qformer2", "qformer4")

# What counts as an effect.
WER_POINTS = 1
PERPLEXITY_CHANGE = 0.05  # nats by token
MORE_ERRORS = (2, 1.2)  # times: yes, unclear

STORY, CAPTION, NO_INSTRUCTION = "audio_story_telling", "audiocaption", "none"
METRIC_LABELS = {
    "wer": "WER (%)",
    "accuracy": "accuracy (%)",
    "different words": "different words in an answer",
    "diversity": "different words in an answer",
    "rouge_l": "ROUGE-L",
}


def stages_section(runs: Runs, images: Path) -> Section:
    section = Section("Training")
    found = {stage: runs.training(stage) for stage in STAGES}
    section.missing += [
        f"Training: no `{stage}/curves.json` with losses." for stage, training in found.items() if training is None
    ]
    found = {stage: training for stage, training in found.items() if training is not None}
    if not found:
        return section
    panels = []
    for stage, training in found.items():
        losses = {"training": training.curves.get("loss"), "validation": training.curves.get("eval_loss")}
        losses = {name: curve for name, curve in losses.items() if curve}
        if losses:
            panels.append(Panel(stage, "step", "loss (nats by token)", losses))
        if "eval_wer" in training.curves:
            panels.append(Panel(stage, "step", "validation WER (%)", {"WER": training.curves["eval_wer"]}))
    plot_panels(images / "training.png", panels)
    section.body += [
        "The stages follow each other, each from the adapter of the one before: the connector against the LLM's token "
        "embeddings (CTC, no LLM is run), twice through the LLM, then on stories of the model's own. The WER is that of all "
        "validation answers of a stage, captions too: it falls with training, but is not the WER of speech.",
        *commands(runs, found),
        table(
            ["stage", "steps", "trained parameters", "training loss", "validation loss", "validation WER, %"],
            [
                [
                    stage,
                    f"{max(curve[-1][0] for curve in training.curves.values()):g}",
                    _millions(training),
                    *(_change(training.curves.get(name), digits) for name, digits in (("loss", 2), ("eval_loss", 2))),
                    _change(training.curves.get("eval_wer"), 1),
                ]
                for stage, training in found.items()
            ],
        ),
        picture(images / "training.png", "Loss and WER by step of each stage"),
    ]
    return section


def beats_scores_section(runs: Runs, images: Path) -> Section:
    section = Section("The small BEATs")
    scores = runs.beats_scores()
    if scores is None:
        section.missing.append("The small BEATs: no `beats/scores.json`.")
        return section
    precision = dict(sorted(scores["average_precision"].items(), key=lambda item: (-item[1], item[0])))
    half, labels = MOST_LABELS // 2, list(precision)
    shown = labels if len(labels) <= MOST_LABELS else labels[:half] + labels[-half:]
    which = (
        "all labels" if len(shown) == len(labels) else f"the {half} best and the {half} worst of {len(labels)} labels"
    )
    plot_bars(images / "beats.png", {label: precision[label] for label in shown}, "average precision (%)")
    section.body += [
        "SALMONN takes a BEATs that was trained on AudioSet; here a small one was trained on made clips, as a classifier. "
        f"Scores on {scores['clips']} test clips, of sounds from files that were not trained on. Mean average precision "
        f"over {len(labels)} labels: **{number(scores['mean_average_precision'])} %**.",
        *commands(runs, ["beats"]),
        table(
            ["clips with a single label", "number", "label with the highest score is right, %"],
            [[kind, str(clips), number(accuracy)] for kind, (accuracy, clips) in scores["top1"].items()],
        ),
        f"Average precision, {which}:",
        picture(images / "beats.png", "Average precision by label"),
    ]
    return section


# ----------------------------------------------------------------------------------------------------------------------
# Connectors


def connectors_section(runs: Runs, images: Path) -> Section:
    """2309.13963, tables 2 and 3."""
    section = Section("Connectors and numbers of queries")
    found = runs.connectors()
    wanted = dict.fromkeys([*CONNECTORS, *QUERIES])
    section.missing += [
        f"{section.title}: no evaluated `connectors/{name}/curves.json`." for name in wanted if name not in found
    ]
    if not found:
        return section
    curves = {name: training.curves["eval_wer"] for name, training in found.items()}
    others = [name for name in curves if name not in wanted]
    panels = [
        Panel(title, "step", "validation WER (%)", {name: curves[name] for name in names if name in curves})
        for title, names in (
            ("connectors at nearly equal token rates", [*CONNECTORS, *others]),
            ("Q-Former: queries in a window of 0.333 s", QUERIES),
        )
    ]
    plot_panels(images / "connectors.png", [panel for panel in panels if panel.lines])
    section.body += [
        "Models that hear speech only (Whisper and a connector), after the alignment warm-up alone: what the connector "
        "writes is read out by CTC, without an LLM. The paper compares trained models with a 13B LLM, so only the order "
        "can be compared. The number in a name is that of queries in a window of 0.333 s; `linear` and "
        "`cross_attention` write one token for each of their shorter windows, about as many in all as `qformer2`.",
        *commands(runs, [f"connectors/{name}" for name in found]),
        table(
            ["connector", "trained parameters", "steps", "first WER, %", "last WER, %", "lowest WER, %"],
            [
                [
                    f"`{name}`",
                    _millions(found[name]),
                    f"{curve[-1][0]:g}",
                    number(curve[0][1]),
                    number(curve[-1][1]),
                    number(min(value for _, value in curve)),
                ]
                for name, curve in curves.items()
            ],
        ),
        picture(images / "connectors.png", "WER by step for connectors and numbers of queries"),
    ]
    last = {name: curve[-1][1] for name, curve in curves.items()}
    _check_equal_steps(section, curves)
    if last.keys() >= set(CONNECTORS):
        section.claims.append(_connector_claim(last))
    if last.keys() >= set(QUERIES):
        section.claims.append(_query_claim(last))
        section.body.append(
            "CTC needs a token for each word piece, which one query a window hardly gives: part of its distance to two "
            "queries comes from the read-out, and an LLM would not have this limit."
        )
    section.body += verdicts(section.claims)
    return section


def _check_equal_steps(section: Section, curves: Mapping[str, Curve]) -> None:
    """Says so if some runs were trained longer than others."""
    steps = {curve[-1][0] for curve in curves.values()}
    if len(steps) > 1:
        section.body.append("**The runs have different numbers of steps, so their last values are not comparable.**")


def _connector_claim(last: Mapping[str, float]) -> Claim:
    qformer = last["qformer2"]
    margin = min(last["linear"], last["cross_attention"]) - qformer
    values = published.CONNECTORS
    return Claim(
        "A Q-Former recognises better than a linear and a cross-attention connector with as many tokens",
        f"{values['qformer']:.2f} v {values['linear']:.2f} and {values['cross_attention']:.2f} % (table 2, test-clean)",
        f"{number(qformer)} v {number(last['linear'])} and {number(last['cross_attention'])} %",
        YES if margin >= WER_POINTS else UNCLEAR if margin > 0 else NO,
        f"yes: lower than both by at least {WER_POINTS} point; unclear: lower than both by less",
    )


def _query_claim(last: Mapping[str, float]) -> Claim:
    one, two, four = (last[f"qformer{count}"] for count in (1, 2, 4))
    values = published.QUERIES
    more_helps, then_less = one - two >= WER_POINTS, 0 <= two - four < one - two
    return Claim(
        "More queries help, and less and less so",
        ", ".join(f"{value:.2f}" for value in values.values())
        + f" % ({', '.join(map(str, values))} tokens in 30 s; table 3, test-clean)",
        f"{number(one)}, {number(two)}, {number(four)} % (1, 2, 4 queries in 0.333 s)",
        YES if more_helps and then_less else UNCLEAR if more_helps or one - four >= WER_POINTS else NO,
        f"yes: two queries lower than one by at least {WER_POINTS} point, and four no higher and gain less; unclear: "
        f"only two or four lower than one by at least {WER_POINTS} point",
    )


# ----------------------------------------------------------------------------------------------------------------------
# Over-fitting to tasks


def sweep_section(runs: Runs, images: Path) -> Section:
    """2310.13289, figure 3."""
    section = Section("LoRA turned down at test time")
    sweep = runs.sweep()
    if sweep is None:
        section.missing.append(f"{section.title}: no `sweep/sweep_lora.json`.")
        return section
    paper = {
        task: sorted((scaling / published.LORA_SCALING, value) for scaling, value in values.items())
        for task, values in published.SWEEP.items()
    }
    panels = [
        Panel(
            task,
            "factor on the LoRA scaling (1: as trained)",
            METRIC_LABELS.get(metric, metric),
            {"here": curve},
            {"paper, 13B (read off)": paper[task]} if task in paper else {},
        )
        for task, (metric, curve) in sweep.items()
    ]
    plot_panels(images / "sweep.png", panels)
    factors = [factor for factor, _ in next(iter(sweep.values()))[1]]
    section.body += [
        "The paper's figure 3: LoRA makes the model give trained answers whatever is asked; turned down, the LLM follows "
        "instructions again, and hears worse. The factor is relative to the scaling of training, since that is not the "
        "paper's 4 here.",
        *commands(runs, ["sweep"]),
        table(
            ["task: score", *(f"factor {factor:g}" for factor in factors)],
            [
                [f"{task}: {METRIC_LABELS.get(metric, metric)}", *(number(value) for _, value in curve)]
                for task, (metric, curve) in sweep.items()
            ],
        ),
        picture(images / "sweep.png", "Scores by factor on the LoRA scaling"),
    ]
    section.claims += _sweep_claims(sweep)
    section.body += verdicts(section.claims)
    return section


def _sweep_claims(sweep: Mapping[str, tuple[str, Curve]]) -> list[Claim]:
    claims = []
    values = {task: dict(curve) for task, (_, curve) in sweep.items()}
    if STORY in values:
        trained, best = (
            values[STORY][1],
            max((factor for factor in values[STORY] if factor < 1), key=values[STORY].get),
        )
        claims.append(
            Claim(
                "With LoRA turned down, answers to a request for a story have more different words",
                f"{published.SWEEP[STORY][4]:g} (as trained) → {published.SWEEP[STORY][2]:g} (half), figure 3",
                f"{number(trained)} (as trained) → {number(values[STORY][best])} (factor {best:g}, the best)",
                judge_growth(trained, values[STORY][best], *MORE_WORDS),
                GROWTH_RULE.format(*MORE_WORDS),
            )
        )
    if "asr" in values:
        trained, lowest = values["asr"][1], min(values["asr"])
        claims.append(
            Claim(
                "With LoRA turned down, recognition breaks",
                f"WER {published.SWEEP['asr'][4]:g} (as trained) → {published.SWEEP['asr'][0]:g} % (off), figure 3",
                f"WER {number(trained)} (as trained) → {number(values['asr'][lowest])} % (factor {lowest:g})",
                judge_growth(trained, values["asr"][lowest], *MORE_ERRORS),
                GROWTH_RULE.format(*MORE_ERRORS),
            )
        )
    return claims


def perplexity_section(runs: Runs, images: Path) -> Section:
    """2310.13289, figure 4."""
    section = Section("How likely answers are during activation tuning")
    curves = runs.perplexity()
    if curves is None:
        section.missing.append(f"{section.title}: no `perplexity/perplexity.json`.")
        return section
    panels = [
        Panel(f"asked for {_asked(instruction)}", "step of activation tuning", "-log P by token (nats)", by_task)
        for instruction, by_task in curves.items()
    ]
    plot_panels(images / "perplexity.png", panels)
    section.body += [
        "The paper's figure 4: -log P of right answers by token, over the steps of activation tuning. Before it, a "
        "caption is likelier than a story even when a story is asked for; after it no longer. Lower is likelier.",
        *commands(runs, ["perplexity"]),
        table(
            ["asked for", "answers", "first", "last", "paper, first", "paper, last"],
            [
                [
                    _asked(instruction),
                    task,
                    number(curve[0][1], 2),
                    number(curve[-1][1], 2),
                    *_paper(instruction, task),
                ]
                for instruction, by_task in curves.items()
                for task, curve in by_task.items()
            ],
        ),
        picture(images / "perplexity.png", "-log P of answers by step"),
    ]
    section.claims += _perplexity_claims(curves)
    section.body += verdicts(section.claims)
    return section


def _perplexity_claims(curves: Mapping[str, Mapping[str, Curve]]) -> list[Claim]:
    claims = []
    for instruction, text in (
        (STORY, "Asked for a story, the story becomes likelier than the caption"),
        (NO_INSTRUCTION, "Asked for nothing, stories become likelier and captions less likely"),
    ):
        by_task = curves.get(instruction, {})
        if STORY not in by_task or CAPTION not in by_task:
            continue
        (story, caption) = ((by_task[task][0][1], by_task[task][-1][1]) for task in (STORY, CAPTION))
        if instruction == STORY:
            first, last = caption[0] - story[0], caption[1] - story[1]
            verdict = YES if first < 0 < last else UNCLEAR if last - first >= PERPLEXITY_CHANGE else NO
            rule = f"yes: likelier at the end only; unclear: their distance moves that way by at least {PERPLEXITY_CHANGE}"
        else:
            moves = [story[0] - story[1] >= PERPLEXITY_CHANGE, caption[1] - caption[0] >= PERPLEXITY_CHANGE]
            verdict = YES if all(moves) else UNCLEAR if any(moves) else NO
            rule = f"yes: both by at least {PERPLEXITY_CHANGE}; unclear: one of them"
        paper = published.PERPLEXITY[instruction]
        claims.append(
            Claim(
                text,
                "story {:g} → {:g}, caption {:g} → {:g} (figure 4)".format(*paper[STORY], *paper[CAPTION]),
                "story {:.2f} → {:.2f}, caption {:.2f} → {:.2f}".format(*story, *caption),
                verdict,
                rule,
            )
        )
    return claims


# ----------------------------------------------------------------------------------------------------------------------
# Parts


def _asked(instruction: str) -> str:
    return "nothing" if instruction == NO_INSTRUCTION else instruction


def _paper(instruction: str, task: str) -> list[str]:
    values = published.PERPLEXITY.get(instruction, {}).get(task)
    return ["–", "–"] if values is None else [f"{value:g}" for value in values]


def _millions(training: Training) -> str:
    return "–" if training.trained_parameters is None else f"{training.trained_parameters / 1e6:.2f} M"


def _change(curve: Curve | None, digits: int) -> str:
    """First and last value of a curve."""
    if curve is None:
        return "–"
    return number(curve[0][1], digits) + (f" → {number(curve[-1][1], digits)}" if len(curve) > 1 else "")
