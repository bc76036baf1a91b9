"""The panels of a run: which metrics are shown, under which title, in which unit.

One table for every place that shows a run: the report's charts (`charts`), the dashboards of wandb, TensorBoard and
Grafana (`dashboards`), and the gauges that Prometheus reads (`training.prometheus`). Standard library only.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from verl_cleaner.records.metrics import held_out_accuracy, second_validation

Metrics = Mapping[str, float]
"""The metrics of one step, by name, as VeRL's loggers get them."""


class Dash(StrEnum):
    """Pattern of a line, as SVG writes it. It tells the lines of one panel apart."""

    SOLID = ""
    DOTS = "2 4"
    LONG = "10 4"


class Form(StrEnum):
    """LINES: one line a metric. STACK: parts of a whole, step by step. BARS: parts of a whole, sums over the run."""

    LINES = "lines"
    STACK = "stack"
    BARS = "bars"


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a panel.

    metric: name as logged, or a regular expression over names where `value` computes the line from several metrics.
    low, high: metrics that bound a band around the line. gauge: name in Prometheus; default: made from `metric`.
    """

    metric: str
    label: str = ""
    dash: Dash = Dash.SOLID
    low: str = ""
    high: str = ""
    gauge: str = ""
    value: Callable[[Metrics], float | None] | None = None

    def read(self, metrics: Metrics) -> float | None:
        """None where the step has no such metric."""
        return self.value(metrics) if self.value else metrics.get(self.metric)

    @property
    def pattern(self) -> str:
        """A regular expression that matches the whole names of the line's metrics."""
        return self.metric if self.value else re.escape(self.metric)

    @property
    def prometheus(self) -> str:
        return self.gauge or "cleaner_" + re.sub(r"\W+", "_", self.metric)


@dataclass(frozen=True, slots=True)
class Parts:
    """All metrics whose names begin with `prefix`, or those of `only`; a part is named by what follows the prefix."""

    prefix: str
    only: tuple[str, ...] = ()
    label: Callable[[str], str] = str

    def read(self, metrics: Metrics) -> dict[str, float]:
        """The value of each part, by its label."""
        found = {key.removeprefix(self.prefix): value for key, value in metrics.items() if key.startswith(self.prefix)}
        return {
            self.label(name): value
            for name, value in found.items()
            if "/" not in name and (not self.only or name in self.only)
        }

    @property
    def pattern(self) -> str:
        """A regular expression that matches the whole names of the parts' metrics."""
        names = "|".join(map(re.escape, self.only)) or "[^/]+"
        return f"{re.escape(self.prefix)}({names})"


@dataclass(frozen=True, slots=True)
class Query:
    """What Grafana asks Prometheus for. legend: a template of Grafana, such as "{{outcome}}"."""

    expression: str
    legend: str = ""


@dataclass(frozen=True, slots=True)
class Panel:
    """unit: "%" (the values are shares from 0 to 1), "s", "tokens", "nats" or nothing.
    lines: for the form LINES. parts: for STACK and BARS, with the `queries` that show the same in Grafana.
    floor: smaller values are rounding errors; an axis is not enlarged below it.
    """

    title: str
    note: str
    unit: str = ""
    form: Form = Form.LINES
    lines: tuple[Line, ...] = ()
    parts: Parts | None = None
    section: str = "Learning"
    floor: float = 0.0
    queries: tuple[Query, ...] = ()


_POLICY, _TOOLS, _COST, _STABLE, _LEAVES = (
    "The policy or the repairs", "Tools and repairs", "Cost", "Stability", "Leaves",
)  # fmt: skip


PHASES = (
    "gen", "reward", "old_log_prob", "ref", "values", "adv", "update_actor", "update_critic", "update_weights",
    "dump_rollout_generations", "switch_to_rollout", "switch_to_trainer", "switch_wait",
)  # fmt: skip
"""The phases of a training step that VeRL times, without validation and checkpoints."""


def _rates(counter: str, label: str, *, where: str = "") -> tuple[Query, ...]:
    return (Query(f"sum by ({label}) (rate({counter}{where}[5m]))", f"{{{{{label}}}}}"),)


PANELS = (
    Panel("Held-out accuracy", "Mean over the held-out sets. Solid: as validation samples, with rollback if it rolls "
          "back. Dashed: the validation repeated with rollback (trainer.validate_with_rollback).", "%",
          lines=(Line("val-core/.+/(acc|reward)/mean@[0-9]+", "validation", gauge="cleaner_held_out_accuracy",
                      value=held_out_accuracy),
                 Line("with_rollback/val-core/.+/(acc|reward)/mean@[0-9]+", "with rollback", Dash.LONG,
                      gauge="cleaner_held_out_accuracy_with_rollback",
                      value=lambda metrics: held_out_accuracy(second_validation(metrics))))),
    Panel("Training accuracy", "Share of the step's trajectories that are right, after repairs.", "%",
          lines=(Line("critic/score/acc", gauge="cleaner_accuracy"),)),
    Panel("Reward", "Mean over the step's trajectories, after repairs.", lines=(Line("critic/score/mean"),)),
    Panel("Groups without a signal", "Share of groups whose rollouts all have one reward: GRPO learns nothing from "
          "them.", "%", lines=(Line("grpo/zero_variance_groups"),)),
    Panel("Tool failures a trajectory", "Solid: held out, the policy alone. Dashed: training, as sampled. Dots: "
          "training, left after repairs.", section=_POLICY,
          lines=(Line("val-aux/tool_calls/sampled_failures_per_trajectory", "held out"),
                 Line("tool_calls/sampled_failures_per_trajectory", "training, sampled", Dash.LONG,
                      gauge="cleaner_tool_failures_sampled"),
                 Line("tool_calls/failures_per_trajectory", "training, left", Dash.DOTS,
                      gauge="cleaner_tool_failures_left"))),
    Panel("First attempts that succeed", "Turns whose first tool calls all work, without help. Solid: held out. "
          "Dashed: training.", "%", section=_POLICY,
          lines=(Line("val-aux/tool_calls/first_attempt_success_rate", "held out"),
                 Line("tool_calls/first_attempt_success_rate", "training", Dash.LONG,
                      gauge="cleaner_first_attempt_success"))),
    Panel("Recovery rate", "Share of rolled-back turns that ended without a failure.", "%", section=_TOOLS,
          lines=(Line("rollback/global_recovery_rate", gauge="cleaner_recovery_rate"),)),
    Panel("Overwritten share", "Tokens that a retry wrote, among the tokens trained on.", "%", section=_TOOLS,
          lines=(Line("tokens/overwritten_share", gauge="cleaner_overwritten_share"),)),
    Panel("Purification gap", "Log-prob of the repaired tokens without the error in view, minus that with it; "
          "band: 5th to 95th percentile. Needs rollback_logprobs=rescore.", "nats", section=_TOOLS,
          lines=(Line("rollback/gap/mean", low="rollback/gap/p05", high="rollback/gap/p95",
                      gauge="cleaner_purification_gap_nats"),)),
    Panel("Failure kinds", "Failed calls of a step, repaired ones included.", form=Form.STACK, section=_TOOLS,
          parts=Parts("tool_calls/failure_reason/"),
          queries=_rates("cleaner_tool_calls_total", "outcome", where='{outcome!="ok"}')),
    Panel("Retries a turn", "Rolled-back turns of the whole run, by number of retries.", form=Form.BARS,
          section=_TOOLS, parts=Parts("rollback/retries/"),
          queries=_rates("cleaner_retried_turns_total", "retries")),
    Panel("Similarity of failed and new call", "Retries of the whole run; from the threshold γ on only the call is "
          "replaced, below it the whole turn.", form=Form.BARS, section=_TOOLS,
          parts=Parts("rollback/similarity/from_", label=lambda low: f"{float(low):.1f}–{float(low) + 0.2:.1f}"),
          queries=(Query("sum by (le) (increase(cleaner_similarity_bucket[$__rate_interval]))", "{{le}}"),)),
    Panel("What became of retries", "Of the whole run. overwritten: took the failed turn's place; no_call: answered "
          "without a call; no_room: did not fit; implausible: refused by rollback_min_logratio.",
          form=Form.BARS, section=_TOOLS,
          parts=Parts("rollback/result/"), queries=_rates("cleaner_retries_total", "result")),
    Panel("Tokens", "Of a step. Solid: trained on. Dots: sampled and thrown away.", "tokens", section=_COST,
          lines=(Line("tokens/kept", "kept"), Line("tokens/discarded", "discarded", Dash.DOTS))),
    Panel("Response length", "Mean over the step's trajectories, tool responses included.", "tokens", section=_COST,
          lines=(Line("response_length/mean", gauge="cleaner_response_tokens"),)),
    Panel("Time of a step, by phase", "Without validation and checkpoints.", "s", form=Form.STACK, section=_COST,
          parts=Parts("timing_s/", only=PHASES),
          queries=(Query('cleaner_phase_seconds{phase=~"' + "|".join(PHASES) + '"}', "{{phase}}"),)),
    Panel("Tool latency", "Solid: median. Dots: 95th percentile.", "s", section=_COST,
          lines=(Line("tool_calls/latency_s/p50", "p50"), Line("tool_calls/latency_s/p95", "p95", Dash.DOTS))),
    Panel("Entropy", "Of the policy, per token.", "nats", section=_STABLE, lines=(Line("actor/entropy"),)),
    Panel("Gradient norm", "Before clipping.", section=_STABLE, lines=(Line("actor/grad_norm"),)),
    Panel("Advantages", "Mean; band: smallest to largest.", section=_STABLE, floor=1e-4,
          lines=(Line("critic/advantages/mean", low="critic/advantages/min", high="critic/advantages/max"),)),
    Panel("KL of the update", "Between the policy that sampled and the policy that is updated, per token. Solid: all "
          "tokens. Dashed: overwritten. Dots: the others. Zero where a step is one update.", "nats",
          section=_STABLE, floor=1e-4,
          lines=(Line("actor/ppo_kl", "all"), Line("actor/overwritten_kl", "overwritten", Dash.LONG),
                 Line("actor/sampled_kl", "sampled", Dash.DOTS))),
    Panel("KL to the reference", "As VeRL logs it, where actor.use_kl_loss is on.", "nats", section=_STABLE,
          floor=1e-4, lines=(Line("actor/kl_loss"),)),
    Panel("Leaves a group", "Failed calls, repaired in their trajectory, that are trained on as members of their "
          "group.", section=_LEAVES, lines=(Line("leaves/per_group"),)),
    Panel("Share of leaves", "Solid: of the gradient's weight. Dots: of the tokens.", "%", section=_LEAVES,
          lines=(Line("leaves/gradient_share", "gradient"), Line("leaves/token_share", "tokens", Dash.DOTS))),
    Panel("Advantage of leaves", "Mean over the step's leaves.", section=_LEAVES, floor=1e-4,
          lines=(Line("leaves/advantage_mean"),)),
    Panel("Groups with a signal through leaves", "Their trajectories all have one reward.", section=_LEAVES,
          lines=(Line("leaves/saved_groups"),)),
)  # fmt: skip

JUDGE = (
    Panel("Verdicts", "", form=Form.STACK, section="Judge",
          queries=(Query("sum by (verdict) (rate(code_judge_verdicts_total[1m]))", "{{verdict}}"),)),
    Panel("Slots and queue", "", section="Judge",
          queries=(Query("code_judge_slots", "slots"), Query("code_judge_slots_busy", "busy"),
                   Query("code_judge_queued", "queued"), Query("code_judge_workers", "workers"))),
    Panel("Waiting and running, 95th percentile", "", "s", section="Judge",
          queries=tuple(Query(f"histogram_quantile(0.95, sum by (le) (rate(code_judge_{what}_seconds_bucket[5m])))",
                              legend) for what, legend in (("wait", "waiting"), ("run", "running")))),
)  # fmt: skip
"""The judge's own metrics, which no training logs: for Grafana only."""
