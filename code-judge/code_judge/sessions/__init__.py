"""Stateful sessions: cells that share an interpreter and a folder, each kept or thrown away.

wire.py     what travels over HTTP, and the errors
states.py   which states of a session are still needed, pure bookkeeping
manager.py  opens sessions, runs their cells one after the other, ends them when they are idle
routes.py   /session
client.py   a client for training loops

The processes are in sandbox/: session_pool.py, session_warden.py, cell.py.
"""
