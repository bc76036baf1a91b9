"""DPO on tool calls: a repaired call is preferred to the failed one it replaced, after the same tokens.

    L = L_policy + λ · mean over pairs of −log σ(β (m − m_ref)),   m = mean log π(repaired) − mean log π(failed)

The means are over the tokens of the call, so its length does not count. m_ref is m under the reference policy, or 0. λ
is the largest number up to 1 with which the norm of the second term's gradient is at most `dpo_max_adjustment_ratio`
times the norm of the first term's.

    saar/pair     which calls make a pair, and how many a group may have          (rollout, trainer)
    rollout/carried  pairs as one more tensor of the trajectory                   (rollout, trainer, actor)
    grant         which pairs are trained on, with a limit for each group         (trainer)
    rows          the two token sequences of each pair, as a batch of their own   (actor)
    step          their gradient, bounded and added to the policy gradient        (actor)
    config        the parameters

Pairs are a batch of their own. It is computed after the last micro-batch of the policy gradient and before the
optimizer's step, for four reasons:
- As rows of VeRL's batch, pairs would change the size of the batch, which must be a multiple of the mini-batch. They
  would also change the normalisation of the losses, the balance between workers and the statistics of each group. All
  of these must be computed from real samples only.
- The loss function has no model to compute a second sequence with. A second sequence behind each trajectory would
  exceed the token budget of dynamic batches.
- The policy's own pass remains VeRL's, bit for bit. A mini-batch without pairs is trained as if there were no pairs.
- The gradient of the second term is known before it is added, so it can be bounded. A bound on the losses would not
  help: GRPO's advantages sum to zero over a group, so its loss is about 0, however large its gradient is.

The loss compares two rows, and yet each row can be computed alone, because the gradient is
    Σ over pairs of −c (∇ mean log π(repaired) − ∇ mean log π(failed)),   c = β σ(−β (m − m_ref)) / pairs.
A first pass without gradient computes c over all workers. A second pass weights each row by +c or −c. The sum does not
depend on how rows are cut into micro-batches. Cost: two sequences a pair, which end with the call; each costs 4/3 of a
training pass (5/3 with a reference policy). One more copy of the (sharded) gradient is in memory meanwhile.
"""
