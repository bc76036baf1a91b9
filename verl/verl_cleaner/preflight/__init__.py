"""Checks before a run. They find what VeRL ignores silently, or reports minutes later in one of its workers.

prepare             sets the defaults of `verl_cleaner.main_ppo`, and translates documented keys into those VeRL reads
check               runs on the driver under `verl_cleaner.main_ppo`: checks the configuration, and this host if the run
                    stays on it in the same environment
check_main          runs on the driver under every main of VeRL: checks that this plug-in extends its trainer
check_in_trainer    runs in the trainer's process, on any node, and starts the checks on the cluster's other nodes

A finding is an error if the run certainly fails or silently trains something else; otherwise it is a warning
(`finding`). Every check has a name, with which it can be switched off (`checks`).
"""

import logging
from collections.abc import Iterable

from omegaconf import DictConfig

from verl_cleaner.preflight.finding import Finding, Level
from verl_cleaner.preflight.names import own_cluster, same_environment
from verl_cleaner.preflight.translate import prepare

__all__ = ["PreflightError", "check", "check_in_trainer", "check_main", "own_cluster", "prepare"]

logger = logging.getLogger(__name__)


class PreflightError(Exception):
    """problems: one text each, with the key, the value, what is expected, and the fix."""

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
        """Ray pickles the error, to raise it in the driver's process."""
        return type(self), (self.problems,)


def check(config: DictConfig) -> None:
    """Log the warnings. Raises PreflightError with all errors that can be found without starting anything."""
    from verl_cleaner.preflight.checks import CONFIGURATION, TRAINER_NODE, findings
    from verl_cleaner.preflight.loaded import main, trainer_mode

    here = TRAINER_NODE if same_environment(config) else {"gpu": TRAINER_NODE["gpu"]}
    _report(findings(config, {**CONFIGURATION, "main": main, "trainer_mode": trainer_mode, **here}))


def check_main(config: DictConfig) -> None:
    """Raises PreflightError where a configuration with CLEANER was given to a main that does not read it, or to a
    process whose VeRL chose another platform."""
    from verl_cleaner.preflight.checks import findings
    from verl_cleaner.preflight.loaded import main, platform

    _report(findings(config, {"main": main, "platform": platform}))


def check_in_trainer(config: DictConfig) -> None:
    """The same checks, as the run may have been started by VeRL's main, and the checks of the cluster's nodes. Raises
    PreflightError."""
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
