"""Checks before a run: what VeRL would swallow, or find out minutes later in one of its workers.

prepare             our own main's defaults, and documented keys translated into those VeRL reads
check               on the driver, where ours is the main: the configuration, and this host where the run stays on it
check_in_trainer    in the process of the trainer, on whichever node it runs, and on the cluster's other nodes

An error certainly fails the run or silently trains something else; everything else is a warning (`finding`). All checks
have names and can be switched off (`checks`).
"""

import logging
from collections.abc import Iterable

from omegaconf import DictConfig

from verl_cleaner.preflight.finding import Finding, Level
from verl_cleaner.preflight.names import own_cluster
from verl_cleaner.preflight.translate import prepare

__all__ = ["PreflightError", "check", "check_in_trainer", "own_cluster", "prepare"]

logger = logging.getLogger(__name__)


class PreflightError(Exception):
    """`problems`: one text each, naming the key, what was got, what is expected and the fix."""

    def __init__(self, problems: list[str]) -> None:
        self.problems = problems
        head = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        super().__init__(
            f"{head} before the start:\n"
            + "\n".join(f"  - {problem}" for problem in problems)
            + "\nA check that is wrong about your set-up can be switched off by the name in brackets: "
            "++trainer.skip_checks=[NAME,...]"
        )

    def __reduce__(self) -> tuple[type, tuple[list[str]]]:
        """Ray hands it from the trainer's process to the driver's."""
        return type(self), (self.problems,)


def check(config: DictConfig) -> None:
    """Logs warnings. Raises PreflightError with all errors that can be found without starting anything."""
    from verl_cleaner.preflight.checks import CONFIGURATION, TRAINER_NODE, findings
    from verl_cleaner.preflight.loaded import trainer_mode

    checks = {**CONFIGURATION, "trainer_mode": trainer_mode}
    _report(findings(config, {**checks, **TRAINER_NODE} if own_cluster(config) else checks))


def check_in_trainer(config: DictConfig) -> None:
    """The same where VeRL's own main was started, and what only the cluster's nodes know. Raises PreflightError."""
    from verl_cleaner.preflight.checks import CONFIGURATION, TRAINER_NODE, findings
    from verl_cleaner.preflight.nodes import findings_elsewhere

    _report([*findings(config, {**CONFIGURATION, **TRAINER_NODE}), *findings_elsewhere(config)])


def _report(found: Iterable[Finding]) -> None:
    problems = []
    for finding in found:
        if finding.level is Level.ERROR:
            problems.append(str(finding))
        else:
            logger.warning("preflight: %s", finding)
    if problems:
        raise PreflightError(problems)
