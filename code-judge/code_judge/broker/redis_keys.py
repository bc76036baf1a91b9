"""What is where in Redis.

{prefix}:jobs, :long-jobs   streams of jobs; an entry lives from submission to result. Fields: reply, key of the stream
                            that takes the result; id, of the job; submission, JSON
{prefix}:results:<api>      stream of results for one API process. Fields: id, result (JSON). Expires
{prefix}:worker:<name>      a live worker's status, JSON. Expires in WORKER_TTL
{prefix}:workers            set of the workers' names
{prefix}:totals             hash of metric samples
All workers are consumers of one group, so that a job is with one worker at a time until its result is written. The
braces, which are part of the keys, keep all of them on one node of a cluster.
"""

GROUP = "workers"

WORKER_TTL = 3.0
"""Seconds without a sign of life after which a worker's jobs are given to others."""
RESULTS_TTL = 600
"""Seconds that results wait for an API process."""


class Keys:
    """prefix: REDIS_KEY_PREFIX, of one service."""

    def __init__(self, prefix: str) -> None:
        tag = f"{{{prefix}}}:"
        self.jobs, self.long_jobs = tag + "jobs", tag + "long-jobs"
        self.streams = self.jobs, self.long_jobs
        self.results = tag + "results:"
        """With the name of an API process."""
        self.worker = tag + "worker:"
        """With the name of a worker."""
        self.workers = tag + "workers"
        self.totals = tag + "totals"
