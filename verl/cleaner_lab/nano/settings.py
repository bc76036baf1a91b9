"""The settings of a cold start."""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

from cleaner_lab.nano.traces import RETRY_SILENT_SHARE, RETRY_VISIBLE_SHARE, SILENT_SHARE, VISIBLE_SHARE


@dataclass(frozen=True, slots=True)
class Settings:
    """hidden … kv_heads: the Qwen3 architecture. visible_share, silent_share: of the first calls in the traces, those
    that fail and those that give a wrong answer. tokens: per optimizer step. matrix_lr: Muon's, for the matrices; lr:
    AdamW's, for embeddings and norms. wide: tasks of more families. device: cpu, or cuda for a
    larger policy, which is saved as bfloat16. Sizes of the data sets in rows.
    calls: parts of a chain (`chains`), 0 for single tasks. habit: 0 for chains in plain Python; else they use numkit
    (`numkit_api`), and of the first calls of its changed functions this share follows the old version. versions: 1
    where the traces meet the version that RL trains on, else how many other versions they meet. context,
    retry_visible, retry_silent: see `chain_traces.Shares`."""

    seed: int = 0
    hidden: int = 96
    intermediate: int = 256
    layers: int = 3
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 24
    vocab_size: int = 640
    traces: int = 24000
    visible_share: float = VISIBLE_SHARE
    silent_share: float = SILENT_SHARE
    steps: int = 1200
    tokens: int = 1024
    lr: float = 3e-3
    matrix_lr: float = 0.02
    train_size: int = 2048
    val_size: int = 320
    wide: bool = False
    device: str = "cpu"
    calls: int = 0
    habit: float = 0.0
    versions: int = 1
    context: float = 0.5
    retry_visible: float = RETRY_VISIBLE_SHARE
    retry_silent: float = RETRY_SILENT_SHARE

    def fingerprint(self) -> str:
        """Of the settings and of the code that makes tasks, traces and tokens."""
        digest = hashlib.sha256(json.dumps(asdict(self)).encode())
        modules = ["tasks", "solutions", "traces", "tokenizer", "settings", "cold_start"]
        if self.calls:
            modules += ["chains", "chain_traces", "chain_data", "numkit_api"]
        for module in modules:
            digest.update(Path(__file__).with_name(f"{module}.py").read_bytes())
        return digest.hexdigest()[:16]
