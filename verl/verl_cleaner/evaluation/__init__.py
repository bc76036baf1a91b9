"""Evaluation: sample each problem n times through VeRL's validation, keep the trajectories, and report.

    python -m verl_cleaner.evaluation run --model MODEL --suites aime2024 gpqa FILE.parquet … --out DIR --samples 16 \\
        --rollback on|off|both [--chunk 64] [--limit P] [--config-name cleaner] [key=value …]
    python -m verl_cleaner.evaluation report DIR

A suite is one of `suites.SUITES` or a data file in any schema of `verl_cleaner.dataset.schemas`. The rest are Hydra
overrides of `verl_cleaner.main_ppo`. Interrupted, the same command goes on: whole chunks of problems are kept.

    DIR/settings.json                 what was asked for; going on with other settings is refused
    DIR/{rollback,plain}/trajectories/N.parquet   a chunk of problems, one trajectory a row
    DIR/{rollback,plain}/train.log    of the last start
    DIR/report.{json,md,png}

In Python, as success statistics need it:

    from verl_cleaner.evaluation.runner import Evaluation, run
    from verl_cleaner.records.trajectories import read_folder

    run(Evaluation(model=…, suites=(FILE,), out=Path(DIR), samples=8, rollback=("plain",), overrides=(…)))
    for trajectory in read_folder(Path(DIR) / "plain" / "trajectories"):     # one file in memory at a time
        trajectory.data_uid, trajectory.data_source, trajectory.acc, trajectory.score
"""
