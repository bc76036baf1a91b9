"""The service's endpoints, by the contract that they keep.

contract.py    the public code-judge's: /judge, /run and their batches
operations.py  for those who run it: /ping, /ready, /status, /metrics
openapi.py     what all of them take and give: /openapi.json, /docs
"""
