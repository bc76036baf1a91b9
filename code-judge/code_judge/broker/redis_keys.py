"""What is where in Redis.

{prefix}:jobs, :long-jobs   streams of jobs; an entry lives from submission to result. Fields: reply, key of the stream
                            that takes the result; id, of the job; api, key of the API process's sign of life;
                            submission, JSON. Of each kind there are LANES, the others as :jobs:1
{prefix}:owners             hash of the clients, by number of the stream that each was the first to use
{prefix}:results:<api>      stream of results for one API process. Fields: id, result (JSON). Expires
{prefix}:worker:<name>      a live worker's status, JSON. Expires in WORKER_TTL
{prefix}:workers            set of the workers' names
{prefix}:api:<api>          a live API process. Expires in API_TTL
{prefix}:gone               set of stream + entry of jobs that run though their client has gone. Expires in GONE_TTL
{prefix}:totals             hash of metric samples
{prefix}:session-homes      set of the names of processes that hold sessions
{prefix}:session-home:<home>     hash of one: state, LIVE, DRAINING or ENDED; open, sessions; most; free, places for new
                                 ones. Expires in HOME_TTL
{prefix}:session-calls:<home>    stream of calls of its sessions; an entry lives from call to answer. Expires
{prefix}:session-replies:<api>   stream of answers for one API process. Expires
All workers are consumers of one group, so that a job is with one worker at a time until its result is written. The
braces, which are part of the keys, keep all of them on one node of a cluster.
"""

GROUP = "workers"

LANES = 8
"""Streams of a kind, for as many clients at a time to take turns exactly. Further clients share streams."""

WORKER_TTL = 3.0
"""Seconds without a sign of life after which a worker's jobs are given to others."""
API_TTL = 15.0
"""Seconds without a sign of life after which an API process's jobs are dropped."""
GONE_TTL = 60
RESULTS_TTL = 600
"""Seconds that results wait for an API process, and calls for a home of sessions."""
HOME_TTL = 4.0
"""Seconds without a sign of life after which a home of sessions is missing."""
LIVE, DRAINING, ENDED = "live", "draining", "ended"


class Keys:
    """prefix: REDIS_KEY_PREFIX, of one service."""

    def __init__(self, prefix: str) -> None:
        tag = f"{{{prefix}}}:"
        self.kinds = tuple(
            tuple(tag + kind + (f":{lane}" if lane else "") for lane in range(LANES)) for kind in ("jobs", "long-jobs")
        )
        self.streams = self.kinds[0] + self.kinds[1]
        self.owners = tag + "owners"
        self.results = tag + "results:"
        """With the name of an API process."""
        self.worker = tag + "worker:"
        """With the name of a worker."""
        self.api = tag + "api:"
        """With the name of an API process."""
        self.gone = tag + "gone"
        self.workers = tag + "workers"
        self.totals = tag + "totals"
        self.session_homes = tag + "session-homes"
        self.session_home, self.session_calls = tag + "session-home:", tag + "session-calls:"
        """With the name of a home."""
        self.session_replies = tag + "session-replies:"
        """With the name of an API process."""
