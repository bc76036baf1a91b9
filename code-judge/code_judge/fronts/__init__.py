"""The service's endpoints, by the contract that they keep.

contract.py    the public code-judge's: /judge, /run and their batches
sandbox_fusion.py  SandboxFusion's: /run_code
operations.py  for those who run it: /ping, /ready, /status, /metrics
openapi.py     what all of them take and give: /openapi.json, /docs
"""
