"""VeRL's actor worker, whose training steps take the leaves, or the pairs, of their mini-batch in."""

from tensordict import TensorDict

from verl_cleaner.training.credit.minibatch import VALUES_FIELD, with_leaves
from verl_cleaner.training.pairs.worker import PairActorWorker, PairTrainingWorker


class CreditTrainingWorker(PairTrainingWorker):
    def train_batch(self, data: TensorDict) -> TensorDict | None:
        """One optimizer step."""
        if VALUES_FIELD in data:
            data = with_leaves(data, self.engine_config, group=self.engine.get_data_parallel_group())
        return super().train_batch(data)


class CreditActorWorker(PairActorWorker):
    actor_worker_cls = CreditTrainingWorker
