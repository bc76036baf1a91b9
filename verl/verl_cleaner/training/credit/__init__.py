"""Failed calls keep their credit: a failed call that SAAR repaired is trained on as a leaf of its group.

    members   R_1 … R_G    returns of the group's (purified) trajectories
    leaves    r_f          one for every trajectory with repaired first attempts; r_f is the score of a wrong answer
    mean, std over members and leaves
    A_i = (R_i - mean) / std        on the trained tokens of trajectory i
    A_f = (r_f - mean) / std / k    on the replaced tokens of each of its k failed attempts, in the context they were
                                    sampled in; rollback_failed_call_weight=full: each is one r_f, and k is 1

Without leaves every failure of a purified group is overwritten, so nothing pushes failing down. With them, calls that
run and leaves together are the policy gradient of the bare policy in the task "a failed call ends the attempt": exactly
where a trajectory had one failed call, an approximation where it had more.

    saar/leaf          which tokens make a leaf                                        (rollout)
    rollout/carried    leaves as tensors of the trajectory                             (rollout, trainer, actor)
    score              r_f, as the reward function declares it                         (trainer, preflight)
    rows               leaves as rows of VeRL's batch                                  (trainer)
    trainer            their log-probs and advantages, by VeRL's own code              (trainer)
    metrics            how many there are and what they weigh                          (trainer)
    minibatch          leaves of a mini-batch as further rows of it                    (actor)
    penalty            the plain competitor: advantage -c on the tokens of failed calls

A leaf is a row of VeRL's batch while log-probs, importance weights, KL terms and advantages are computed: VeRL's code
does it for members and leaves alike, whatever the estimator. Then it leaves the batch, so that batch size, mini-batches
and every statistic of a group are those of real trajectories; what was computed travels with its trajectory. In the
actor it is a row again, of its trajectory's mini-batch, and VeRL's loss is taken over all rows: one loss over all
tokens. Leaves count in its denominator like any other row:
    token-mean   the mean is over the trained tokens of trajectories and leaves
    seq-mean-*   the mean is over trajectories and leaves; a leaf's sequence are its own tokens
The loss is the mean over trajectories and leaves, however many calls failed; were leaves added on top, the gradient
would grow with the number of failures. A mini-batch without leaves is trained bit for bit as without the feature.

Cost: a leaf is a sequence of its prefix and its own tokens, in one scoring pass and in the update.
"""
