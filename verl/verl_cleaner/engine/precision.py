"""Log once in which precision the FSDP engine computes: several configuration keys look as if they decided it."""

import logging
from functools import wraps
from typing import Any

logger = logging.getLogger(__name__)


def log_autocast(module: Any) -> None:
    """Wrap the engine of `verl.workers.engine.fsdp.transformer_impl`."""
    stock = module.FSDPEngine._build_fsdp_module

    @wraps(stock)
    def build(engine: Any, *args: Any, **kwargs: Any) -> Any:
        result = stock(engine, *args, **kwargs)
        if engine.rank == 0:
            # A warning, as VeRL's workers show no lower level.
            logger.warning(
                "FSDP engine: autocast %s, loss scaling %s", engine._autocast_dtype, engine.scaler is not None
            )
        return result

    module.FSDPEngine._build_fsdp_module = build
