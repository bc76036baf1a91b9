"""DPO on tool calls: a repaired call is preferred to the failed one it replaced, after the same tokens.

    L = L_policy + λ · mean over pairs of −log σ(β (m − m_ref)),   m = mean log π(repaired) − mean log π(failed)

The means are over the tokens of the call (length-normalised), m_ref is the same under the reference policy or 0. λ ≤ 1
is what it takes for the gradient of the second term to have at most `dpo_max_adjustment_ratio` times the norm of the
first's.

    saar/pair     which calls make a pair, and how many a group may have          (rollout, trainer)
    rollout/carried   pairs as one more tensor of the trajectory                  (rollout, trainer, actor)
    grant         which pairs are trained on, at most so many a group             (trainer)
    rows          the two token sequences of each pair, as a batch of their own   (actor)
    step          their gradient, bounded and added to the policy gradient        (actor)
    term          the term of the actor's loss                                    (actor)
    credit        the method's part in a step of the trainer, and its metrics     (trainer)
    config        the parameters

Why a batch of its own, between the last micro-batch of the policy gradient and the optimizer's step:
- As more rows of VeRL's batch, pairs would change its size, which must be a multiple of the mini-batch, the losses'
  normalisation, the balance and every statistic of a group; all of these must be of real samples only.
- Inside the loss function there is no model; and a second sequence behind each trajectory would break the token budget
  of dynamic batches.
- Apart, the policy's pass is VeRL's own, bit for bit; a mini-batch without pairs is trained as if there were no pairs.
- Only apart is the term's gradient known before it is added. A bound on losses would mean little: GRPO's advantages sum
  to zero over a group, so its loss is about 0 whatever its gradient.

Rows are independent of each other, although the loss compares two of them: its gradient is
    Σ over pairs of −c (∇ mean log π(repaired) − ∇ mean log π(failed)),   c = β σ(−β (m − m_ref)) / pairs,
so a pass without gradient finds c, over all workers, and a second one weighs each row by ±c. However rows are cut into
micro-batches, the sum is the same. Cost: two sequences a pair, which end with the call, at 4/3 of a training pass each
(5/3 with a reference policy); and one more copy of the (sharded) gradient while both passes are held apart.
"""
